"""GGUF files of every family against the judges of its checkpoints, and against llama.cpp."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from airllm_rs.checkpoint import open_checkpoint
from gguf_converter import NAMES, convert
from loading import load
from models.architectures import ROWS, SCENARIOS, Row
from models.originals import cases, llama_cpp
from models.originals.cases import CASES
from models.test_families import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-4
"""Of the largest logit."""
PACKED_TOLERANCE = 1e-3

# What llama.cpp's converter leaves out of a file: the model is another past some length, or has a
# window where nothing says so.
LEFT_OUT = {
    "qwen2, window",
    "qwen, past its length",
    "qwen, first revision",
    "internlm, dynamic",
    "internlm2, dynamic",
    "internlm2, dynamic, factor 1",
    "internlm3, dynamic",
    "qwen3_moe, dense layer",
}
# Files say what these are by their number of layers.
LAYERS = {name: 32 if "7b" in name else 40 for name in CASES if name.startswith("baichuan")}
IN_FILES = [row for row in ROWS.values() if row.name not in LEFT_OUT | LAYERS.keys()]

COMPARED = ("prefill", "decode, left padding")

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], Path]:
    """Write the checkpoint of a row once."""
    paths: dict[str, Path] = {}

    def write(row: Row) -> Path:
        if row.name not in paths:
            paths[row.name] = row.write(tmp_path_factory.mktemp(row.family))
        return paths[row.name]

    return write


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return config.json and the tensors of a checkpoint."""
    config = json.loads((path / "config.json").read_text())
    return config, load_file(path / "model.safetensors")


def differences(path: Path, row: Row, wants: Mapping[str, Tensor], mode: str) -> dict[str, float]:
    """Return by how much ours are off, of the largest logit, for each scenario."""
    found = {}
    with load(path, mode) as model:
        for scenario, want in wants.items():
            got = run(model, row, scenario).double()
            kept = row.mask.bool() if "padding" in scenario else torch.ones_like(row.ids).bool()
            found[scenario] = float((got - want)[kept].abs().max() / want.abs().max())
    return found


def scenarios(row: Row) -> list[str]:
    return [name for name in COMPARED if name in row.scenarios]


def test_every_family_is_among_those_compared() -> None:
    assert {row.family for row in IN_FILES} | {"baichuan"} == set(NAMES)


@pytest.mark.parametrize("mode", ["resident", "ring below a layer"])
@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in IN_FILES])
def test_logits_of_the_file_are_the_judges(
    row: Row, mode: str, written: Callable[[Row], Path], tmp_path: Path
) -> None:
    checkpoint = written(row)
    path = convert(tmp_path / "a.gguf", *contents(checkpoint))
    wants = {name: row.oracle(checkpoint, name) for name in scenarios(row)}
    found = differences(path, row, wants, mode)
    print(f"{row.name}, {mode}: {max(found.values()):.1e}")  # noqa: T201 - shown by pytest -s
    assert max(found.values()) <= TOLERANCE, found
