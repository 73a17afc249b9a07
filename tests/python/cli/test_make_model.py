"""`airllm-rs bench make-model`: the flags of synthetic and of widened checkpoints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from command_line import SHAPE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import Outcome


def test_json_tells_what_was_written(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli("bench", "make-model", out, *SHAPE, "--tie", "--model-type=qwen3", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert (found["path"], found["files"]) == (str(out), 1)
    assert found["bytes"] == 2 * found["parameters"]
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["tie_word_embeddings"]) == ("qwen3", True)


def test_a_model_is_widened(cli: Callable[..., Outcome], model: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    assert cli("bench", "make-model", wide, "--widen", model, "--intermediate=640").code == 0
    assert json.loads((wide / "config.json").read_text())["intermediate_size"] == 640
    answers = [
        json.loads(cli("run", path, "x", "--max-new-tokens=4", "--temperature=0", "--json").out)
        for path in (model, wide)
    ]
    assert answers[0]["token_ids"] == answers[1]["token_ids"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "give --layers"),
        (SHAPE[:-1], "give --vocab"),
        ((*SHAPE, "--dtype=int8"), "dtype is 'int8'"),
        ((*SHAPE, "--model-type=gpt2"), "model-type is 'gpt2'"),
        ((*SHAPE, "--layers=0"), "--layers"),
        ((*SHAPE, "--experts=8"), "--experts"),
        (("--widen=x",), "--widen needs --intermediate"),
        (("--widen=x", "--intermediate=9", "--layers=2"), "--layers is SRC's"),
        (("--widen=x", "--intermediate=9", "--tie"), "--tie is SRC's"),
    ],
)
def test_wrong_usage_writes_nothing(
    cli: Callable[..., Outcome], tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    done = cli("bench", "make-model", tmp_path / "out", *flags)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_kept(cli: Callable[..., Outcome], model: Path) -> None:
    done = cli("bench", "make-model", model, *SHAPE)
    assert done.code == 1
    assert done.err.startswith(f"error: {model} exists")
