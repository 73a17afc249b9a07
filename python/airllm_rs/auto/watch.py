"""Progress of sweeps, for those that take long."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airllm_rs.stats import PeakMemory
    from airllm_rs.stats.progress import Progress, Task

PATIENCE_S = 2.0
"""A sweep that takes longer shows its layers."""


class SweepWatch:
    """Told of every layer that is done; shows the sweep once it has taken a while.

    It also looks at the memory of the process: at every layer of a prompt, where it is highest, and
    after every sweep. For a trace it writes down when each layer was computed. ``on_sweep`` is
    called with the tokens of every sweep that ended, 0 if it was interrupted.
    """

    def __init__(
        self,
        progress: Progress,
        peak: PeakMemory,
        clock: Callable[[], float] = time.monotonic,
        *,
        records: bool = False,
        on_sweep: Callable[[int], None] | None = None,
    ) -> None:
        self._progress = progress
        self._peak = peak
        self._clock = clock
        self._sweeps = 0
        self._is_prompt = False
        self._start = 0.0
        self._takes_long = False
        self._task: Task | None = None
        self._shown = ExitStack()
        self._on_sweep = on_sweep
        self._records = records
        self._mark_ns = 0
        self.spans: list[tuple[int, int, int, int]] = []
        """Of each layer: sweep, layers done before (-1: the head), begin, end; the clock is
        `time.monotonic_ns`."""

    @contextmanager
    def watch(self, tokens: int) -> Iterator[None]:
        """Watch a sweep over ``tokens``, shown from its start if the one before took long."""
        self._sweeps += 1
        self._is_prompt = tokens > 1
        self._start = self._clock()
        self._mark_ns = time.monotonic_ns()
        passed = 0
        try:
            yield
            passed = tokens
            self._record(-1)
        finally:
            self._takes_long = self._clock() - self._start > PATIENCE_S
            self._task = None
            self._shown.close()
            self._peak.sample()
            if self._on_sweep is not None:
                self._on_sweep(passed)

    def on_layer(self, done: int, total: int) -> None:
        """Take note that ``done`` of ``total`` layers are done."""
        elapsed = self._clock() - self._start
        if self._task is None and done < total and (self._takes_long or elapsed > PATIENCE_S):
            what = "prompt" if self._is_prompt else f"sweep {self._sweeps}"
            task = self._progress.task(what, total, unit="layers")
            self._task = self._shown.enter_context(task)
        if self._task is not None:
            self._task.update(done, total)
        if self._is_prompt:
            self._peak.sample()
        self._record(done - 1)

    def _record(self, layer: int) -> None:
        if self._records:
            begun, self._mark_ns = self._mark_ns, time.monotonic_ns()
            self.spans.append((self._sweeps, layer, begun, self._mark_ns))
