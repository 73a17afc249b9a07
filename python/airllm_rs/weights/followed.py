"""A weight source for layers that may not take their weights in the order that was foreseen."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from airllm_rs.weights.source import WeightSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs import _core
    from airllm_rs.weights.repacking import Place


class FollowedSource(WeightSource):
    """Hands out tensors in whatever order they are asked for, and schedules the next sweep so.

    The readahead delivers in the order of its schedule. A unit that is asked for before its turn
    is put in front of what is left of the sweep.
    """

    _expected: deque[int]
    _taken: list[int]

    def expect(self, units: Sequence[int] | None = None) -> None:
        """Schedule one sweep of ``units`` only, or sweeps over everything without an end (None)."""
        super().expect(units)
        listed = self._order if units is None else units
        self._expected = deque(unit for unit in listed if unit not in self.residents)
        self._taken = []

    def finish(self) -> None:
        """Say that a sweep over everything is over: the next one is as this one was."""
        expected, taken = self._followed()
        if not expected and not self._has_strayed:
            self._expected, self._taken = deque(), []
            return
        known = set(taken)
        kept = [unit for unit in self._order if unit in self.residents]
        rest = [unit for unit in self._order if unit not in known and unit not in self.residents]
        self._order = (*dict.fromkeys(taken), *rest, *kept)
        self._has_strayed = False
        self.expect()

    _has_strayed = False

    def place(self, place: Place, *, out_of_turn: bool = False) -> tuple[_core.Lease, int]:
        """Wait for a part's unit and return its lease, and where in it the block's share begins."""
        unit = place.unit
        if not (
            out_of_turn or not self._prefetching or unit in self.residents or unit in self._leases
        ):
            self._follow(unit)
        return super().place(place, out_of_turn=out_of_turn)

    def _follow(self, unit: int) -> None:
        expected, taken = self._followed()
        if not expected and not taken:
            expected.extend(u for u in self._order if u not in self.residents)
        if expected and expected[0] == unit:
            expected.popleft()
        elif unit in expected:
            expected.remove(unit)
            self._has_strayed = True
            self.readahead.schedule([unit, *expected])
        else:
            # used before in this sweep
            self.readahead.demand((unit,))
            return
        taken.append(unit)

    def _followed(self) -> tuple[deque[int], list[int]]:
        if "_expected" not in self.__dict__:
            self._expected = deque(u for u in self._order if u not in self.residents)
            self._taken = []
        return self._expected, self._taken
