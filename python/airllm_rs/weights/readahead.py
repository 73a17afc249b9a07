"""Opens the readahead of a memory plan; imports no torch, so that reading starts first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs._core import Readahead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.memory import MemoryPlan, Unit

__all__ = ["Readahead", "open_readahead", "unit_parts"]


def open_readahead(
    plan: MemoryPlan,
    files: Sequence[str],
    *,
    engine: str = "auto",
    throttle_gbps: float | None = None,
    latency_us: int = 0,
    prefetching: bool = True,
) -> Readahead:
    """Start reading the residents of ``plan``, followed by the first units of a sweep.

    Args:
        plan: What stays in memory, what is streamed, in which order.
        files: Absolute paths, indexed by ``Piece.file``.
        engine: ``"auto"``, or the one I/O engine to use.
        throttle_gbps: Slow the disk down to this rate.
        latency_us: Delay added to each request.
        prefetching: Read ahead of use; otherwise each unit is read when it is asked for.
    """
    readahead = Readahead(
        files,
        [unit_parts(unit) for unit in plan.units],
        names=[unit.name for unit in plan.units],
        residents=plan.residents,
        ring_bytes=plan.ring_bytes,
        engine=engine,
        throttle_gbps=throttle_gbps,
        latency_us=latency_us,
    )
    if prefetching and not plan.fits:
        readahead.schedule(plan.order, cyclic=True)
    return readahead


def unit_parts(unit: Unit) -> list[tuple[int, int, int, int]]:
    """Return the parts of a unit as (file, offset, nbytes, item size)."""
    parts = []
    for piece in unit.pieces:
        items = 1
        for length in piece.shape:
            items *= length
        parts.append((piece.file, piece.offset, piece.nbytes, piece.nbytes // items))
    return parts
