"""What goes wrong, as one line on stderr that says what to do, and an exit code."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import fields
from inspect import signature
from typing import TYPE_CHECKING

import typer
from typer.core import TyperGroup

from airllm_rs.auto.prompts import Sampling
from airllm_rs.cli.interruption import INTERRUPTED
from airllm_rs.cli.options import load_options
from airllm_rs.errors import AirLLMError

if TYPE_CHECKING:
    from collections.abc import Iterator

FAILED = 1
USAGE = 2

# messages name keywords, which are flags here; those that are words of the language too are
# keywords only before an equals sign, or where a message begins
_KEYWORDS = [
    *signature(load_options).parameters,
    *(field.name for field in fields(Sampling)),
    *("ram", "disk_gbps"),
]
_KEYWORD = re.compile(
    rf"(?<![\w/.-])(?:({'|'.join(_KEYWORDS)})=(True\b)?(?=(\S?))"
    rf"|^({'|'.join(_KEYWORDS)})(?= is )"
    rf"|({'|'.join(name for name in _KEYWORDS if '_' in name)})\b(?!=))"
)


class Commands(TyperGroup):
    """The commands, whose expected failures are told in one line."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            advice = f": {error}" if str(error) else ""
            print(f"\ninterrupted{advice}" if advice else "", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from error
        except AirLLMError as error:
            complain(str(error))
            raise typer.Exit(FAILED) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader has gone
            complain(_sentence(error))
            raise typer.Exit(FAILED) from error
        except ValueError as error:
            if not _is_ours(error):
                raise
            complain(str(error))
            raise typer.Exit(USAGE) from error


def complain(message: str) -> None:
    """Print an error as one line."""
    print(f"error: {as_flags(' '.join(message.split()))}", file=sys.stderr)


def as_flags(message: str) -> str:
    """Return a message with flags in place of the keywords that they stand for."""
    return _KEYWORD.sub(_flag, message)


@contextmanager
def at_once() -> Iterator[None]:
    """Leave without further ado after Ctrl-C.

    Taking torch apart takes a second, and threads of a download would be waited for.
    """
    try:
        yield
    except SystemExit as leaving:
        if leaving.code != INTERRUPTED:
            raise
        sys.stderr.flush()
        os._exit(INTERRUPTED)


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """Say nothing if the reader of stdout goes away, as ``head`` does."""
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # what is left in the buffer is flushed again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flag(match: re.Match[str]) -> str:
    flag = f"--{(match[1] or match[4] or match[5]).replace('_', '-')}"
    has_value = match[1] and not match[2] and match[3]
    return f"{flag} " if has_value else flag


def _sentence(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _is_ours(error: ValueError) -> bool:
    """Tell whether this package raised it, which it does for values that it cannot accept."""
    traceback = error.__traceback__
    name = ""
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next
    return name.partition(".")[0] == "airllm_rs"
