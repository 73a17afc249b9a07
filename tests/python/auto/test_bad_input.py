"""What loading says of checkpoints that are not known, or hold more than is known."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file

from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.errors import UnknownModelError
from airllm_rs.stats import choose_progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def copied(source: Path, target: Path, extra: str | None = None, **keys: object) -> Path:
    raw = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**raw, **keys}))
    tensors = load_file(source / "model.safetensors")
    if extra is not None:
        tensors[extra] = next(iter(tensors.values())).clone()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def test_tensors_that_no_rule_knows_are_warned_about(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copied(tiny_checkpoint("llama"), tmp_path, extra="model.adapter.weight")
    with caplog.at_level(logging.WARNING, "airllm_rs"):
        opened = open_model(path, LoadOptions(), progress=choose_progress(False))
    assert opened.unused == ["model.adapter.weight"]
    (told,) = [entry.getMessage() for entry in caplog.records if "no rule" in entry.getMessage()]
    assert "model.adapter.weight" in told


def test_tensors_that_a_rule_knows_are_not(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = "model.layers.0.self_attn.rotary_emb.inv_freq"
    path = copied(tiny_checkpoint("llama"), tmp_path, extra=extra)
    with caplog.at_level(logging.WARNING, "airllm_rs"):
        open_model(path, LoadOptions(), progress=choose_progress(False))
    assert not [entry for entry in caplog.records if "no rule" in entry.getMessage()]


def test_an_unknown_model_is_told_with_its_tensors(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = copied(tiny_checkpoint("qwen3"), tmp_path, model_type="qwen9")
    with pytest.raises(UnknownModelError) as caught:
        open_model(path, LoadOptions(), progress=choose_progress(False))
    message = str(caught.value)
    assert "tensors lm_head.weight" in message or "model.layers.N." in message
    assert "nearest: qwen3 (100% of the tensors' names)" in message
