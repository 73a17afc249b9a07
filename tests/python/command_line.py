"""Runs commands in this process."""

from __future__ import annotations

from dataclasses import dataclass

from typer.testing import CliRunner

from airllm_rs.cli.application import app

SHAPE = (
    "--layers=3", "--hidden=256", "--intermediate=512", "--heads=4", "--kv-heads=2", "--vocab=320",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


def invoke(*arguments: object, stdin: str | None = None) -> Outcome:
    """Run the command in this process; what is not told in one line is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)
