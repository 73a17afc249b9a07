"""`airllm-rs inspect`: the same as `airllm_rs.inspect`, and as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import airllm_rs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import Outcome


def test_json_is_what_python_returns(cli: Callable[..., Outcome], model: Path) -> None:
    done = cli("inspect", model, "--json")
    assert json.loads(done.out) == airllm_rs.inspect(model)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)


def test_equal_layers_share_their_lines(
    cli: Callable[..., Outcome], tiny_checkpoint: Callable[..., Path]
) -> None:
    shown = cli("inspect", tiny_checkpoint("llama", num_hidden_layers=7)).out
    assert "layers.0 … 6 (7)" in shown
    assert shown.count("self_attn.q_proj.weight") == 1
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_layers_that_slide_are_told_apart(
    cli: Callable[..., Outcome], tiny_checkpoint: Callable[..., Path]
) -> None:
    shown = cli("inspect", tiny_checkpoint("qwen2", use_sliding_window=True, sliding_window=8,
                                           max_window_layers=1)).out  # fmt: skip
    assert "latest 8" in shown
    assert "1 layers see 8" in shown


def test_what_does_not_run_here_is_said(
    cli: Callable[..., Outcome], model: Path, tmp_path: Path
) -> None:
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "other"}))
    (tmp_path / "model.safetensors").symlink_to(next(model.glob("*.safetensors")))
    done = cli("inspect", tmp_path)
    assert done.code == 0
    assert "no: model_type 'other' (LlamaForCausalLM) is known neither here" in done.out
