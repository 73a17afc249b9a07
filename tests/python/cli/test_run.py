"""`airllm-rs run`: text on stdout, everything else on stderr, one object with --json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs.cli.prompt import TEMPLATE_TOKENS, most_tokens
from tiny import generate, oracle

if TYPE_CHECKING:
    from collections.abc import Callable

    from command_line import Outcome

TINY = "--weights-memory=3MiB"


def test_tokens_are_those_of_transformers(cli: Callable[..., Outcome], model: Path) -> None:
    wanted = generate(
        oracle(model), torch.tensor([list(b"hello")]), max_new_tokens=12, do_sample=False
    )
    done = cli("run", model, "hello", "--max-new-tokens=12", "--temperature=0", "--json", TINY)
    found = json.loads(done.out)
    assert done.code == 0
    assert found["token_ids"] == wanted[0, 5:].tolist()
    assert found["weights"]["streamed_bytes_per_sweep"] > 0
    assert found["sweeps"] == 12


def test_json_has_the_keys_of_the_surface(cli: Callable[..., Outcome], model: Path) -> None:
    found = json.loads(cli("run", model, "x", "--max-new-tokens=2", "--json", TINY).out)
    assert set(found) >= {
        "text", "token_ids", "prompt_tokens", "new_tokens", "finish_reason", "timings", "weights",
        "io", "memory", "sweeps", "draft", "experts",
    }  # fmt: skip
    assert (found["prompt_tokens"], found["new_tokens"]) == (1, 2)
    assert found["finish_reason"] == "length"
    assert set(found["timings"]) == {
        "load_s", "first_token_s", "decode_s", "tokens_per_s", "s_per_token",
    }  # fmt: skip
    assert set(found["io"]) == {
        "engine", "bytes_read", "requests", "busy_s", "stall_s", "gb_per_s",
    }  # fmt: skip
    assert 0 < found["memory"]["peak_bytes"] < found["memory"]["budget_bytes"]


def test_text_goes_to_stdout_and_the_table_to_stderr(
    cli: Callable[..., Outcome], model: Path
) -> None:
    options = ("--max-new-tokens=3", "--temperature=0")
    wanted = json.loads(cli("run", model, "hello", *options, "--json").out)["text"]
    done = cli("run", model, "hello", *options)
    assert done.out == f"{wanted}\n"
    assert "first token" in done.err
    assert cli("run", model, "hello", *options, "--quiet").err == ""


def test_the_prompt_comes_from_stdin(cli: Callable[..., Outcome], model: Path) -> None:
    options = ("--max-new-tokens=2", "--temperature=0", "--json")
    piped = json.loads(cli("run", model, *options, stdin="hello\n").out)
    given = json.loads(cli("run", model, "hello", *options).out)
    assert (piped["token_ids"], piped["prompt_tokens"]) == (given["token_ids"], 5)


def test_a_stop_string_ends_the_text(cli: Callable[..., Outcome], model: Path) -> None:
    options = ("--max-new-tokens=8", "--temperature=0", "--json")
    whole = json.loads(cli("run", model, "hello", *options).out)["text"]
    stop = whole[3:5]
    found = json.loads(cli("run", model, "hello", *options, "--stop", "@@", "--stop", stop).out)
    assert found["text"] == whole[: whole.index(stop)]
    assert found["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x", "--top-p=3"), "--top-p is 3.0"),
        (("x", "--temperature=-1"), "--temperature is -1.0"),
        (("x", "--max-new-tokens=0"), "--max-new-tokens is 0"),
        (("x", "--stop="), "stop string is empty"),
        ((), "stdin is empty"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_loaded(
    cli: Callable[..., Outcome], model: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = cli("run", model, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_long_prompts_are_counted_by_the_tokenizer(model: Path, tmp_path: Path) -> None:
    text = "é" * 5000
    assert most_tokens(model, ["abc", ""]) == TEMPLATE_TOKENS + 3
    assert most_tokens(model, [text]) == TEMPLATE_TOKENS + 10_000
    assert most_tokens(tmp_path, [text]) == TEMPLATE_TOKENS + 10_000
    (tmp_path / "tokenizer.json").write_text("no JSON")
    assert most_tokens(tmp_path, [text]) == TEMPLATE_TOKENS + 10_000


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_leaves_quietly(model: Path) -> None:
    command = [sys.executable, "-m", "airllm_rs", "run", str(model), "hello", "--quiet", TINY]
    endless = ["--max-new-tokens=9000", "--throttle-gbps=0.005"]
    with subprocess.Popen(
        command + endless,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        # a shell that starts this in the background lets it ignore the signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b"\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("library", ["libtorch_cpu", "_multiarray_umath"])
def test_ctrl_c_during_imports_leaves_quietly(library: str, model: Path) -> None:
    command = [sys.executable, "-m", "airllm_rs", "run", str(model), "hello", "--quiet", TINY]
    with subprocess.Popen(
        [*command, "--max-new-tokens=9000", "--throttle-gbps=0.005"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while library not in maps.read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b"\n"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_while_the_disk_answers_nothing_leaves_quietly(model: Path) -> None:
    # the warning comes from inside the wait, early here
    script = """
from functools import partial
from airllm_rs.weights import readahead
readahead.Readahead = partial(readahead.Readahead, silence_s=0.05)
from airllm_rs.cli import main
main()
"""
    stalled = ["run", str(model), "hello", "--quiet", TINY, "--throttle-gbps=1e-12"]
    with subprocess.Popen(
        [sys.executable, "-c", script, *stalled],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=30)
    assert b"no read has ended" in said
    assert str(model).encode() in said
    assert process.returncode == 130
    assert (text, errors) == (b"", b"\n")
