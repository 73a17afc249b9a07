"""Threads and blocks with which a store is made within a budget of memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs.errors import BudgetError
from airllm_rs.stats import process_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.store.jobs import FileJob

_MIB = 1 << 20
_LARGEST_BLOCK = 8 * _MIB
_SMALLEST_BLOCK = _MIB // 4
_MOST_THREADS = 32
# So many reads of 8 MiB keep a disk busy.
_WAITING_FOR_DISK = 4
_MOST_VERIFYING = 8
# Some wait for the disk while others encode; where nothing is encoded, all of them wait.
_WAITING = 2
_WAITING_TO_COPY = 10
# A block of the source, what is made of it, one row as floats, and both ends of a direct read.
_PER_BLOCK = 2.25
_PER_THREAD = 3 * _MIB
_MARGIN = 32 * _MIB


def verifying_threads(memory_bytes: int | None = None) -> int:
    """Return how many threads verify a store within a budget; at least one."""
    wanted = min(max(os.cpu_count() or 1, _WAITING_FOR_DISK), _MOST_VERIFYING)
    if memory_bytes is None:
        return wanted
    room = memory_bytes - process_memory().total_bytes - _MARGIN
    return max(1, min(wanted, room // (_LARGEST_BLOCK + _PER_THREAD)))


@dataclass(frozen=True, slots=True)
class Workforce:
    """How many threads, and how many bytes of the source each works on at a time."""

    threads: int
    block_bytes: int

    @classmethod
    def of(cls, jobs: Sequence[FileJob], memory_bytes: int) -> Workforce:
        """Return the largest that the budget allows.

        Raises:
            BudgetError: if not even one thread fits; names the smallest budget that works.
        """
        rows = [tensor.row_bytes for job in jobs for tensor in job.tensors]
        least = max([_SMALLEST_BLOCK, *rows])
        taken = process_memory().total_bytes + _MARGIN
        is_copy = not any(tensor.scheme for job in jobs for tensor in job.tensors)
        waiting = _WAITING_TO_COPY if is_copy else _WAITING
        wanted = min((os.cpu_count() or 1) + waiting, _MOST_THREADS)
        for threads in range(wanted, 0, -1):
            room = ((memory_bytes - taken) / threads - _PER_THREAD) / _PER_BLOCK
            enough = max(least, 2 * _MIB) if threads > 1 else least
            if room >= enough:
                return cls(threads, max(least, min(int(room), _LARGEST_BLOCK)))
        smallest = int(taken + _PER_THREAD + least * _PER_BLOCK) // _MIB + 1
        raise BudgetError(
            f"memory={memory_bytes // _MIB}MiB is too little to make a store: "
            f"use memory={smallest}MiB or more",
            option="memory",
            allowed_bytes=memory_bytes,
            smallest_bytes=smallest * _MIB,
        )
