"""Decoding is measured sweep after sweep, without prompts and pauses."""

from __future__ import annotations

from airllm_rs.auto.pace import DecodePace
from airllm_rs.memory.flow import Flow


class Machine:
    """A clock, and counters that go with it."""

    def __init__(self) -> None:
        self.now = 0
        self.looks = 0

    def progress(self) -> dict[str, object]:
        self.looks += 1
        return {"stall_ns": self.now * 10**9 // 4, "ring_full_ns": self.now * 10**9 // 2}


def test_sweeps_after_the_first_are_summed_up() -> None:
    machine = Machine()
    pace = DecodePace(machine.progress, lambda: machine.now)

    def sweeps(*tokens: int) -> None:
        for each in tokens:
            machine.now += 100 if each > 1 else 4
            pace.note_sweep(each)

    sweeps(7, 1)
    assert pace.flow == Flow()
    sweeps(1)
    assert pace.flow == Flow(1, 4.0, 1.0, 2.0)
    sweeps(1, 1, 1)
    assert pace.flow == Flow(4, 16.0, 4.0, 8.0)
    sweeps(1, 1)  # not looked at yet
    assert pace.flow == Flow(4, 16.0, 4.0, 8.0)
    sweeps(9, 1, 1, 1)
    assert pace.flow == Flow(6, 24.0, 6.0, 12.0)
    sweeps(0, 1)
    assert pace.flow == Flow(6, 24.0, 6.0, 12.0)


def test_looks_are_few() -> None:
    machine = Machine()
    pace = DecodePace(machine.progress, lambda: machine.now)
    for _ in range(1025):
        pace.note_sweep(1)
    assert machine.looks == 12
