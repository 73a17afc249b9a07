"""Quick commands import what they need and no more."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import Outcome

SLOW = ("torch", "transformers", "numpy", "huggingface_hub", "rich.markdown")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",), ("run", "--help"), ("bench", "make-model", "--help"), ("doctor",),
        ("bench", "io", "--help"), ("bench", "decode", "--help"),
        ("inspect", "{model}"), ("plan", "{model}"), ("plan", "{model}", "--memory=1MiB"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_quick_commands_import_nothing_slow(model: Path, arguments: tuple[str, ...]) -> None:
    given = [argument.format(model=model) for argument in arguments]
    script = f"""
import sys
from airllm_rs.cli.application import app
try:
    app({given})
except SystemExit:
    pass
print("imported:", *sorted(set({SLOW}) & sys.modules.keys()))
"""
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1].strip() == "imported:"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("library", ["airllm_rs.cli.application", "typer", "airllm_rs.cli.run"])
def test_ctrl_c_before_the_command_is_known_leaves_quietly(library: str) -> None:
    script = f"""
import os, signal, sys
class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == {library!r}:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupter())
sys.argv[1:] = ["--version"]
from airllm_rs.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"\n")


def test_the_version_is_that_of_the_package(cli: Callable[..., Outcome]) -> None:
    assert cli("--version").out == f"airllm-rs {version('airllm_rs')}\n"


def test_help_lists_the_commands(cli: Callable[..., Outcome]) -> None:
    shown = cli("--help").out
    for command in ("run", "inspect", "plan", "doctor", "bench"):
        assert f"\n  {command} " in shown
