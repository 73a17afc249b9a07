"""What a decoded token will take, from the sizes of a plan and the rates of a machine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from airllm_rs.memory.planner import MemoryPlan

# The first begins with an empty ring; from then on each is like the one before.
_SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Rate:
    """10^9 bytes a second, and how they are known."""

    gbps: float
    source: Literal["given", "measured", "assumed"]


DISK = Rate(2.0, "assumed")
"""A common NVMe drive."""
MEMORY = Rate(30.0, "assumed")
"""A desktop's, read by all cores."""


def predict(plan: MemoryPlan, disk: Rate = DISK, memory: Rate = MEMORY) -> dict[str, object]:
    """Return what one decoded token costs at these rates, batch 1.

    ``memory`` is the rate at which weights are used, whatever limits it.
    """
    swept = sum(plan.units[index].nbytes for index in plan.order)
    disk_s = plan.streamed_bytes_per_sweep / (disk.gbps * 1e9)
    memory_s = swept / (memory.gbps * 1e9)
    return {
        "bytes_per_sweep": plan.streamed_bytes_per_sweep,
        "s_per_token": sweep_seconds(plan, disk.gbps, memory.gbps),
        "limited_by": "disk" if disk_s > memory_s else "memory",
        "disk_gbps": disk.gbps,
        "disk_source": disk.source,
        "memory_gbps": memory.gbps,
        "memory_source": memory.source,
    }


def sweep_seconds(plan: MemoryPlan, disk_gbps: float, memory_gbps: float) -> float:
    """Return the seconds of a sweep: each unit read as soon as the ring has room, then used.

    Reading and computing overlap as far as the ring and the order of residents and streamed units
    let them, so that this is more than the larger of the two.
    """
    residents = frozenset(plan.residents)
    held: deque[tuple[int, float]] = deque()  # bytes in the ring, and when they are given back
    free = plan.ring_bytes
    read = used = begun = 0.0
    for _ in range(_SWEEPS):
        begun = used
        for index in plan.order:
            nbytes = plan.units[index].nbytes
            if index not in residents:
                while free < nbytes and held:
                    given_back, when = held.popleft()
                    free += given_back
                    read = max(read, when)
                read += nbytes / (disk_gbps * 1e9)
                used = max(used, read)
            used += nbytes / (memory_gbps * 1e9)
            if index not in residents:
                free -= nbytes
                held.append((nbytes, used))
    return used - begun
