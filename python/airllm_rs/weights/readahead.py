"""Opens the readahead of a memory plan; imports no torch, so that reading starts first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs._core import Readahead
from airllm_rs.weights.devices import DeviceSettings, recall, remember

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.memory import MemoryPlan, Unit

__all__ = ["Readahead", "keep_settings", "open_readahead", "unit_parts"]

REQUEST_BYTES = 8 << 20
QUEUE_DEPTH = 8
"""Where the search for better ones starts."""


def open_readahead(
    plan: MemoryPlan,
    files: Sequence[str],
    *,
    engine: str = "auto",
    throttle_gbps: float | None = None,
    latency_us: int = 0,
    prefetching: bool = True,
    trace: bool = False,
    mlock: bool = False,
) -> Readahead:
    """Start reading the residents of ``plan``, followed by the first units of a sweep.

    Args:
        plan: What stays in memory, what is streamed, in which order.
        files: Absolute paths, indexed by ``Piece.file``.
        engine: ``"auto"``, or the one I/O engine to use.
        throttle_gbps: Slow the disk down to this rate.
        latency_us: Delay added to each request.
        prefetching: Read ahead of use; otherwise each unit is read when it is asked for.
        trace: Record requests, waits and leases.
        mlock: Lock the weights in memory.
    """
    known = recall(files[0]) if files and throttle_gbps is None and not latency_us else None
    readahead = Readahead(
        files,
        [unit_parts(unit) for unit in plan.units],
        names=[unit.name for unit in plan.units],
        residents=plan.residents,
        ring_bytes=plan.ring_bytes,
        engine=engine,
        request_bytes=known.request_bytes if known else REQUEST_BYTES,
        queue_depth=known.queue_depth if known else QUEUE_DEPTH,
        tune=known is None,
        expected_gbps=known.gbps if known else None,
        trace=trace,
        throttle_gbps=throttle_gbps,
        latency_us=latency_us,
        mlock=mlock,
    )
    if prefetching and not plan.fits:
        readahead.schedule(plan.order, cyclic=True)
    return readahead


def keep_settings(readahead: Readahead, files: Sequence[str]) -> None:
    """Remember how the device is best read, if these reads have found out."""
    stats = readahead.stats()
    rate = stats["device_gbps"]
    if files and stats["is_tuned"] and rate > 0:
        found = DeviceSettings(stats["request_bytes"], stats["queue_depth"], rate)
        remember(files[0], found)


def unit_parts(unit: Unit) -> list[tuple[int, int, int, int]]:
    """Return the parts of a unit as (file, offset, nbytes, item size)."""
    parts = []
    for piece in unit.pieces:
        items = 1
        for length in piece.shape:
            items *= length
        parts.append((piece.file, piece.offset, piece.nbytes, piece.nbytes // items))
    return parts
