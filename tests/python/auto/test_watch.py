"""Sweeps that take long are shown, the others are not, and nothing is left on the screen."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from airllm_rs.auto.watch import SweepWatch
from airllm_rs.stats import PeakMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airllm_rs.stats import Task


class Shown:
    """A progress that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    @contextmanager
    def task(self, label: str, total: int | None, *, unit: str = "B") -> Iterator[Task]:
        self.events.append(("begin", label, total, unit))
        try:
            yield self
        finally:
            self.events.append(("end",))

    def update(self, completed: int, total: int | None = None) -> None:
        self.events.append((completed, total))

    def advance(self, amount: int) -> None:
        raise AssertionError(amount)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_what_takes_long_is_shown() -> None:
    shown, clock = Shown(), Clock()
    watch = SweepWatch(shown, PeakMemory(), clock)
    with watch.watch(1):
        for done in range(1, 4):
            clock.now += 0.1
            watch.on_layer(done, 3)
    assert shown.events == []
    with watch.watch(7):
        for done in range(1, 4):
            clock.now += 1.5
            watch.on_layer(done, 3)
    assert shown.events == [("begin", "prompt", 3, "layers"), (2, 3), (3, 3), ("end",)]
    shown.events.clear()
    with watch.watch(1):
        watch.on_layer(1, 3)
    assert shown.events == [("begin", "sweep 3", 3, "layers"), (1, 3), ("end",)]


def test_an_interruption_takes_the_bar_away() -> None:
    shown, clock = Shown(), Clock()
    watch = SweepWatch(shown, PeakMemory(), clock)

    def interrupted() -> None:
        with watch.watch(1):
            clock.now += 3
            watch.on_layer(1, 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [event[0] for event in shown.events] == ["begin", 1, "end"]
