"""Progress of what takes long: bars where a person looks, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from rich.progress import Progress as RichProgress

log = logging.getLogger(__name__)

LOG_EVERY_S = 30.0


class Task(Protocol):
    """Something that is under way."""

    def advance(self, amount: int) -> None:
        """Say that so much more is done."""

    def update(self, completed: int, total: int | None = None) -> None:
        """Say how much is done by now, and of how much if that changed."""


class Progress(Protocol):
    """Shows how far something is. Everything goes to stderr."""

    def task(
        self, label: str, total: int | None, *, unit: str = "B"
    ) -> AbstractContextManager[Task]:
        """Begin something; it ends with the context.

        Args:
            label: What is done, such as ``loading weights``.
            total: How much there is to do, None if that is not known.
            unit: ``"B"`` for bytes, else the name of what is counted, such as ``layers``.
        """


def choose_progress(progress: bool | None) -> Progress:
    """Return how progress is shown.

    Args:
        progress: None for bars on a terminal or in a notebook and log lines elsewhere; True for
            bars wherever they can be drawn, False for nothing.
    """
    if progress is False:
        return NoProgress()
    if in_notebook():
        # rich draws into notebooks through ipywidgets only
        return BarProgress() if find_spec("ipywidgets") else LogProgress()
    if progress or sys.stderr.isatty():
        return BarProgress()
    return LogProgress()


def in_notebook() -> bool:
    """Tell whether this is a Jupyter kernel."""
    return "ipykernel.zmqshell" in sys.modules


class NoProgress:
    """Shows nothing."""

    @contextmanager
    def task(self, label: str, total: int | None, *, unit: str = "B") -> Iterator[Task]:
        """Begin something that nobody watches."""
        yield _Count(label, total, unit)


class LogProgress:
    """Logs a line at the end of anything that took long, and every so often on the way."""

    def __init__(
        self, every_s: float = LOG_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_s = every_s
        self._clock = clock

    @contextmanager
    def task(self, label: str, total: int | None, *, unit: str = "B") -> Iterator[Task]:
        """Begin something."""
        task = _LoggedTask(label, total, unit, self._every_s, self._clock)
        yield task
        task.finish()


class BarProgress:
    """Draws bars with rate and remaining time; several at once share the lines below the cursor."""

    def __init__(self) -> None:
        self._display: RichProgress | None = None
        self._open = 0

    @contextmanager
    def task(self, label: str, total: int | None, *, unit: str = "B") -> Iterator[Task]:
        """Begin something; its bar goes when it ends."""
        if self._display is None:
            self._display = _display()
            self._display.start()
        self._open += 1
        bar = _Bar(self._display, label, total, unit)
        try:
            yield bar
        finally:
            bar.remove()
            self._open -= 1
            if self._open == 0:
                self._display.stop()
                self._display = None


class _Count:
    """Counts what is done."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.completed = 0

    def advance(self, amount: int) -> None:
        self.update(self.completed + amount)

    def update(self, completed: int, total: int | None = None) -> None:
        self.completed = completed
        if total is not None:
            self.total = total


class _LoggedTask(_Count):
    """Counts, and logs at intervals."""

    def __init__(
        self, label: str, total: int | None, unit: str, every_s: float, clock: Callable[[], float]
    ) -> None:
        super().__init__(label, total, unit)
        self._every_s = every_s
        self._clock = clock
        self._start = self._last = clock()

    def update(self, completed: int, total: int | None = None) -> None:
        super().update(completed, total)
        now = self._clock()
        if now - self._last >= self._every_s:
            self._last = now
            log.info("%s", self._line(now))

    def finish(self) -> None:
        now = self._clock()
        if now - self._start >= self._every_s:
            log.info("%s: done in %s", self.label, duration(now - self._start))

    def _line(self, now: float) -> str:
        elapsed = now - self._start
        rate = self.completed / elapsed if elapsed else 0.0
        done = so_far(self.completed, self.total, self.unit)
        if self.total:
            done += f" ({self.completed / self.total:.0%})"
        line = f"{self.label}: {done}, {amount(rate, self.unit)}/s"
        if self.total and rate:
            line += f", {duration((self.total - self.completed) / rate)} left"
        return line


class _Bar:
    """One bar of rich's."""

    def __init__(self, display: RichProgress, label: str, total: int | None, unit: str) -> None:
        self._display = display
        self._unit = unit
        self._total = total
        self._completed = 0
        self._begun: tuple[float, int] | None = None
        self._id = display.add_task(label, total=total, shown="")

    def advance(self, amount: int) -> None:
        self.update(self._completed + amount)

    def update(self, completed: int, total: int | None = None) -> None:
        self._completed = completed
        self._total = self._total if total is None else total
        now = time.monotonic()
        # what was done before anybody looked tells nothing about the rate
        start, before = self._begun = self._begun or (now, completed)
        shown = so_far(completed, self._total, self._unit)
        if now > start:
            shown += f", {amount((completed - before) / (now - start), self._unit)}/s"
        self._display.update(self._id, completed=completed, total=self._total, shown=shown)

    def remove(self) -> None:
        self._display.remove_task(self._id)


def _display() -> RichProgress:
    # rich takes a tenth of a second to import, and quick commands draw nothing
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def so_far(done: int, total: int | None, unit: str) -> str:
    """Return how much of how much: ``1.2 GB of 3 GB``, ``14 of 28 layers``."""
    if not total:
        return amount(done, unit)
    return f"{amount(done, unit) if unit == 'B' else done} of {amount(total, unit)}"


def amount(count: float, unit: str) -> str:
    """Return an amount as people read it: ``1.2 GB``, ``14 layers``."""
    if unit != "B":
        return (
            f"{count:.0f} {unit}" if count >= 10 or count == int(count) else f"{count:.2g} {unit}"
        )
    for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return (
                f"{count / size:.3g} {name}"
                if count < 999.5 * size
                else f"{count / size:.0f} {name}"
            )
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Return a duration as people read it: ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
