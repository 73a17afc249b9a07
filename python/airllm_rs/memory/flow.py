"""What decoding waited for, and the ring that the next plan needs because of it."""

from __future__ import annotations

from dataclasses import dataclass

_LEAST_BYTES = 32 << 20
_MIN_SWEEPS = 3
_MOSTLY = 0.5
_HARDLY = 0.02
_NOTICEABLY = 0.05


@dataclass(frozen=True, slots=True)
class Flow:
    """Sums over sweeps of one token each."""

    sweeps: int = 0
    seconds: float = 0.0
    stall_s: float = 0.0
    """The consumer waited for the disk."""
    ring_full_s: float = 0.0
    """The disk had nothing to do, for want of room in the ring."""

    def __add__(self, other: Flow) -> Flow:
        return Flow(
            self.sweeps + other.sweeps,
            self.seconds + other.seconds,
            self.stall_s + other.stall_s,
            self.ring_full_s + other.ring_full_s,
        )


@dataclass(frozen=True, slots=True)
class RingLimit:
    """How large a ring may be, beyond what a plan cannot do without."""

    nbytes: int
    too_small: int = 0
    """A limit that was tried and made the consumer wait."""


def next_limit(limit: RingLimit, most: int, ring_bytes: int, flow: Flow) -> RingLimit:
    """Return the limit for the next plan.

    A ring that was full most of the time while the consumer hardly waited is halved, down to 32
    MiB: what it gives up holds residents. A smaller ring with which the consumer waited grows back
    to ``most``; if it was full at other times, it was too small, and is not tried again.

    Args:
        limit: That of the plan that ran.
        most: The limit where nothing is known.
        ring_bytes: What that plan made of it.
        flow: How it ran.
    """
    if flow.sweeps < _MIN_SWEEPS or not ring_bytes:
        return limit
    stalled, full = (part / flow.seconds for part in (flow.stall_s, flow.ring_full_s))
    if stalled > _NOTICEABLY and limit.nbytes < most:
        return RingLimit(most, limit.nbytes if full > _NOTICEABLY else limit.too_small)
    # a ring above the limit is as small as a plan can make it
    if full > _MOSTLY and stalled < _HARDLY and ring_bytes <= limit.nbytes:
        smaller = max(ring_bytes // 2, min(ring_bytes, _LEAST_BYTES))
        return RingLimit(smaller, limit.too_small) if smaller > limit.too_small else limit
    return limit
