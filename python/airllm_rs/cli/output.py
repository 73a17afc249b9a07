"""What is printed: JSON and text on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console
    from rich.table import Table

_FILE_WIDTH = 120


def print_json(value: Mapping[str, object]) -> None:
    """Print one object on one line."""
    # written as ASCII, so that no encoding of stdout can break it
    print(json.dumps(value, allow_nan=False), flush=True)


def print_table(table: Table, *, stderr: bool = False) -> None:
    """Print a table as wide as it has to be where nobody's terminal limits it."""
    shown = console(stderr=stderr)
    if shown.is_terminal:
        shown.print(table)
        return
    with shown.capture() as captured:
        shown.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=shown.file)


def console(*, stderr: bool = False) -> Console:
    """Return where tables are printed."""
    # a tenth of a second, which --json and --help need not spend
    from rich.console import Console

    shown = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not shown.is_terminal:
        shown.width = _FILE_WIDTH
    return shown


def pairs(rows: Iterable[tuple[str, str]], title: str | None = None) -> Table:
    """Return a table of names and values."""
    from rich.table import Table

    table = Table(box=None, show_header=False, title=title, title_justify="left", pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def millions(count: int) -> str:
    """Return a number of parameters as people say it: ``135 M``, ``7.24 B``."""
    return f"{count / 1e9:.3g} B" if count >= 1e9 else f"{count / 1e6:.3g} M"


def show_log(*, quiet: bool) -> None:
    """Let what the package logs appear on stderr as plain lines."""
    log = logging.getLogger("airllm_rs")
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
    handler = _StderrHandler()
    handler.setFormatter(_Plain())
    log.handlers = [handler]


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the stderr of the moment, which progress bars and tests replace."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Plain(logging.Formatter):
    """One line, with its level from warnings on."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {text}"
        return text
