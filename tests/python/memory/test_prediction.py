"""Seconds per token follow from the order of reads and products, and from the ring between."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from airllm_rs.memory.prediction import sweep_seconds

GB = 10**9


@dataclass
class Sized:
    nbytes: int


@dataclass
class Sweep:
    """The fields of a plan that a prediction looks at."""

    units: list[Sized]
    residents: tuple[int, ...]
    ring_bytes: int

    @property
    def order(self) -> range:
        return range(len(self.units))


def seconds(residents: tuple[int, ...], ring_gb: int, *, disk: float, memory: float) -> float:
    sweep = Sweep([Sized(GB)] * 8, residents, ring_gb * GB)
    return sweep_seconds(sweep, disk, memory)  # type: ignore[arg-type]


def test_in_memory_nothing_is_waited_for() -> None:
    assert seconds(tuple(range(8)), 0, disk=1, memory=2) == pytest.approx(4)


def test_the_slower_of_both_counts_where_they_overlap() -> None:
    assert seconds((), 4, disk=1, memory=10) == pytest.approx(8)
    assert seconds((), 4, disk=10, memory=1) == pytest.approx(8)
    # four residents take 2 s to use, in which two units are read
    assert seconds((0, 2, 4, 6), 4, disk=1, memory=2) == pytest.approx(4)


def test_a_ring_of_one_unit_overlaps_nothing() -> None:
    assert seconds((), 1, disk=1, memory=2) == pytest.approx(8 * 1.5)


def test_residents_side_by_side_leave_the_disk_without_room() -> None:
    spread = seconds((0, 2, 4, 6), 2, disk=1, memory=1.25)
    together = seconds((0, 1, 2, 3), 2, disk=1, memory=1.25)
    assert spread == pytest.approx(6.4)
    # by hand: of the 3.2 s of residents the disk works in 2, then it is the limit
    assert together == pytest.approx(3.2 + 0.8 + 0.8 + 1 + 1, abs=0.61)
    assert together > spread
    # more ring, more overlap
    assert seconds((0, 1, 2, 3), 4, disk=1, memory=1.25) == pytest.approx(6.4)
