"""A readahead in memory that is strict: what is given back is overwritten, the ring is counted."""

from __future__ import annotations

import weakref
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs._core import LeaseHeld

if TYPE_CHECKING:
    from collections.abc import Sequence

POISON = b"\xff"  # as bf16, fp16 or fp32: not a number


class FakeReadahead:
    """The methods of `airllm_rs._core.Readahead` that Python uses, without threads."""

    def __init__(
        self,
        files: Sequence[str],
        units: Sequence[Sequence[tuple[int, int, int, int]]],
        *,
        residents: Sequence[int] = (),
        ring_bytes: int,
    ) -> None:
        self.residents = set(residents)
        self.closed = False
        self.taken: list[int] = []
        self.demanded: list[int] = []
        self.schedules: list[tuple[tuple[int, ...], bool]] = []
        self._contents: list[bytes] = []
        self._offsets: list[list[int]] = []
        data = [Path(file).read_bytes() for file in files]
        for parts in units:
            content = b""
            offsets = []
            for file, offset, nbytes, _ in parts:
                content += bytes(-len(content) % 64)
                offsets.append(len(content))
                content += data[file][offset : offset + nbytes]
            self._contents.append(content)
            self._offsets.append(offsets)
        sizes = [len(content) + -len(content) % 4096 for content in self._contents]
        self._starts = [0]
        for size in sizes:
            self._starts.append(self._starts[-1] + size)
        self.arena = bytearray(POISON * self._starts[-1])
        self._sizes = [stop - start for start, stop in pairwise(self._starts)]
        self._ring_bytes = ring_bytes
        self._free_bytes = ring_bytes
        self._queue: list[int] = []
        self._cycle: tuple[int, ...] = ()
        self._live: dict[int, int] = {}
        for unit in self.residents:
            self._fill(unit)

    @property
    def leased(self) -> list[int]:
        """The streamed units that are leased."""
        return sorted(unit for unit, count in self._live.items() if count)

    def schedule(self, units: Sequence[int], *, cyclic: bool = False) -> None:
        self.schedules.append((tuple(units), cyclic))
        self._queue = [unit for unit in units if unit not in self.residents]
        self._cycle = tuple(self._queue) if cyclic else ()

    def demand(self, units: Sequence[int]) -> None:
        self.demanded += units

    def take(self, unit: int) -> memoryview:
        if self.closed:
            raise RuntimeError("closed")
        start = self._starts[unit]
        lease = memoryview(self.arena)[start : start + len(self._contents[unit])]
        if unit in self.residents:
            return lease
        if unit in self.demanded:
            self.demanded.remove(unit)
        else:
            if not self._queue:
                self._queue = list(self._cycle)
            if not self._queue or self._queue[0] != unit:
                raise RuntimeError(f"unit {unit} is not next in {self._queue[:4]}")
            self._queue.pop(0)
        if self._sizes[unit] > self._free_bytes:
            raise LeaseHeld(f"units {self.leased} are leased")
        self._free_bytes -= self._sizes[unit]
        self._live[unit] = self._live.get(unit, 0) + 1
        self._fill(unit)
        self.taken.append(unit)
        weakref.finalize(lease, self._released, unit)
        return lease

    def evict(self, units: Sequence[int]) -> None:
        for unit in units:
            self.residents.remove(unit)
            self._poison(unit)

    def offsets(self, unit: int) -> list[int]:
        return self._offsets[unit]

    def close(self) -> None:
        self.closed = True

    def _fill(self, unit: int) -> None:
        start, content = self._starts[unit], self._contents[unit]
        self.arena[start : start + len(content)] = content

    def _poison(self, unit: int) -> None:
        start, content = self._starts[unit], self._contents[unit]
        self.arena[start : start + len(content)] = POISON * len(content)

    def _released(self, unit: int) -> None:
        self._live[unit] -= 1
        self._free_bytes += self._sizes[unit]
        self._poison(unit)
