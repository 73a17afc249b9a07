"""Failures are one line on stderr that says what to do, and an exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airllm_rs.cli.failures import as_flags

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import Outcome

INDEX = "model.safetensors.index.json"


def break_nothing_there(path: Path) -> str:
    shutil.rmtree(path)
    return "no such file or directory"


def break_config_missing(path: Path) -> str:
    (path / "config.json").unlink()
    return "has no config.json"


def break_config_syntax(path: Path) -> str:
    (path / "config.json").write_text("{,")
    return "line 1 column 2"


def break_shape(path: Path) -> str:
    config = json.loads((path / "config.json").read_text())
    config["intermediate_size"] = 640
    (path / "config.json").write_text(json.dumps(config))
    return "has shape [512, 256], expected [640, 256]"


def break_truncated(path: Path) -> str:
    weights = next(path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    return weights.name


def break_index(path: Path) -> str:
    index = json.loads((path / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = "gone.safetensors"
    (path / INDEX).write_text(json.dumps(index))
    return "gone.safetensors"


def break_tensor_missing(path: Path) -> str:
    config = json.loads((path / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (path / "config.json").write_text(json.dumps(config))
    return "the checkpoint lacks model.layers.3."


BREAKS = (
    break_nothing_there, break_config_missing, break_config_syntax, break_shape, break_truncated,
    break_index, break_tensor_missing,
)  # fmt: skip


@pytest.mark.parametrize("command", ["inspect", "plan", "run"])
@pytest.mark.parametrize("breaking", BREAKS, ids=lambda breaking: breaking.__name__)
def test_a_broken_checkpoint_is_told_in_one_line(
    cli: Callable[..., Outcome],
    model: Path,
    tmp_path: Path,
    command: str,
    breaking: Callable[[Path], str],
) -> None:
    path = tmp_path / "model"
    shutil.copytree(model, path)
    said = breaking(path)
    prompt = ("x",) if command == "run" else ()
    done = cli(command, path, *prompt, "--json")
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["plan", "run"])
def test_an_unknown_architecture_is_refused_by_name(
    cli: Callable[..., Outcome], model: Path, tmp_path: Path, command: str
) -> None:
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "other"}))
    prompt = ("x",) if command == "run" else ()
    done = cli(command, tmp_path, *prompt)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: model_type 'other' (LlamaForCausalLM) is known neither here")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", "x"), ("run",), ("plan", ".", "--prefetching"), ("bench", "nothing"),
        ("inspect", ".", "x"), ("run", ".", "x", "--context=many"),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_2(cli: Callable[..., Outcome], arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Error: " in done.err


def test_a_token_is_shown_nowhere(
    cli: Callable[..., Outcome], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for arguments in (("plan", model), ("plan", model, "--memory=1MiB"), ("run", "--help")):
        done = cli(*arguments)
        assert "hf_secret" not in done.out + done.err


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("memory=3GiB is too little", "--memory 3GiB is too little"),
        ("load it with context=9, max_num_seqs=2", "load it with --context 9, --max-num-seqs 2"),
        ("a token (hf_token= or HF_TOKEN)", "a token (--hf-token or HF_TOKEN)"),
        ("choose another with cache_dir= or X", "choose another with --cache-dir or X"),
        ("config_overrides: 'x' is not read", "--config-overrides: 'x' is not read"),
        ("context is 0: use 1", "--context is 0: use 1"),
        ("the context is long", "the context is long"),
        ("the memory of the device", "the memory of the device"),
        ("a/cache_dir/x and my_cache_dir", "a/cache_dir/x and my_cache_dir"),
    ],
)
def test_messages_name_flags(message: str, shown: str) -> None:
    assert as_flags(message) == shown


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "airllm_rs", "inspect", str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(timeout=60)
