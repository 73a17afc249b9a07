"""Progress on the line below text that is still being written."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airllm_rs.stats.progress import duration, so_far

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airllm_rs.stats import Task

_BAR_WIDTH = 20
# Index and reverse index: down a line, which scrolls at the bottom, and up in the same column.
_MAKE_ROOM = "\x1bD\x1bM"
_SAVE, _RESTORE = "\x1b7", "\x1b8"
_NEXT_LINE, _CLEAR = "\r\n", "\x1b[2K"


class BelowText:
    """Draws under the cursor and puts it back, so that the text goes on where it was.

    For a terminal that shows stdout and stderr both; its sequences are those of the VT100.
    """

    @contextmanager
    def task(self, label: str, total: int | None, *, unit: str = "B") -> Iterator[Task]:
        """Begin something; its line goes when it ends."""
        line = _Line(label, total, unit)
        try:
            yield line
        finally:
            line.remove()


class _Line:
    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._completed = 0
        self._begun: tuple[float, int] | None = None
        self._is_drawn = False

    def advance(self, amount: int) -> None:
        self.update(self._completed + amount)

    def update(self, completed: int, total: int | None = None) -> None:
        self._completed = completed
        self._total = self._total if total is None else total
        self._begun = self._begun or (time.monotonic(), completed)
        self._draw()

    def remove(self) -> None:
        if self._is_drawn:
            self._write(f"{_SAVE}{_NEXT_LINE}{_CLEAR}{_RESTORE}")

    def _draw(self) -> None:
        room = "" if self._is_drawn else _MAKE_ROOM
        self._is_drawn = True
        width = shutil.get_terminal_size().columns - 1
        self._write(f"{room}{_SAVE}{_NEXT_LINE}{_CLEAR}{self._text()[:width]}{_RESTORE}")

    def _text(self) -> str:
        done = so_far(self._completed, self._total, self._unit)
        if not self._total or not self._begun:
            return f"{self._label}: {done}"
        filled = round(min(self._completed / self._total, 1.0) * _BAR_WIDTH)
        bar = "━" * filled + " " * (_BAR_WIDTH - filled)
        start, before = self._begun
        more = self._completed - before
        left = ""
        if more > 0:
            seconds = (time.monotonic() - start) / more * (self._total - self._completed)
            left = f", {duration(seconds)} left"
        return f"{self._label} {bar} {done}{left}"

    def _write(self, text: str) -> None:
        # what was written to stdout must be on the screen before the cursor is saved
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
