"""How decoding flows: what sweeps of one token take, and what they wait for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airllm_rs.memory.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class DecodePace:
    """Told of every sweep; sums up those of one token that follow another such.

    The counters are looked at after the 1st, 2nd, 3rd, 5th, 9th, … of them.
    """

    def __init__(
        self,
        progress: Callable[[], Mapping[str, object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._settled = Flow()
        self._window = Flow()
        self._sweeps = 0
        self._start = (0.0, 0.0, 0.0)

    @property
    def flow(self) -> Flow:
        """The sums so far."""
        return self._settled + self._window

    def note_sweep(self, tokens: int) -> None:
        """Take note of the end of a sweep over ``tokens``, 0 if it was interrupted."""
        if tokens != 1:
            self._settled, self._window = self.flow, Flow()
            self._sweeps = 0
            return
        self._sweeps += 1
        since_start = self._sweeps - 1
        if since_start & (since_start - 1):
            return
        look = self._look()
        if not since_start:
            self._start = look
            return
        seconds, stall, full = (now - then for now, then in zip(look, self._start, strict=True))
        self._window = Flow(since_start, seconds, stall, full)

    def _look(self) -> tuple[float, float, float]:
        counters = self._progress()
        stall, full = counters["stall_ns"], counters["ring_full_ns"]
        assert isinstance(stall, int), "the extension counts in whole numbers"
        assert isinstance(full, int), "the extension counts in whole numbers"
        return self._clock(), stall / 1e9, full / 1e9
