"""The counters of a run, under the names that `run --json` prints."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Timings:
    """Seconds, as a person with a stop-watch would take them."""

    load_s: float = 0.0
    first_token_s: float = 0.0
    """From the call to the first new token."""
    decode_s: float = 0.0
    """From the first to the last new token."""
    decoded_tokens: int = 0
    """New tokens after the first."""
    _begun: float = field(default=0.0, repr=False)
    _first: float = field(default=0.0, repr=False)

    def begin(self) -> None:
        """Begin a generation; what the last one took is forgotten."""
        self._begun = time.monotonic()
        self.first_token_s = self.decode_s = 0.0
        self.decoded_tokens = 0

    def note_token(self) -> None:
        """Take note that every sequence has a new token."""
        now = time.monotonic()
        if not self.first_token_s:
            self._first = now
            self.first_token_s = now - self._begun
            return
        self.decode_s = now - self._first
        self.decoded_tokens += 1

    def to_json(self) -> dict[str, float]:
        """Return the timings with the rates that follow from them."""
        per_token = self.decode_s / self.decoded_tokens if self.decoded_tokens else 0.0
        return {
            "load_s": self.load_s,
            "first_token_s": self.first_token_s,
            "decode_s": self.decode_s,
            "tokens_per_s": 1 / per_token if per_token else 0.0,
            "s_per_token": per_token,
        }


@dataclass(slots=True)
class IoCounters:
    """What was read from the disk."""

    engine: str = "none"
    bytes_read: int = 0
    requests: int = 0
    busy_s: float = 0.0
    """At least one request was in flight."""
    stall_s: float = 0.0
    """The consumer waited."""

    @classmethod
    def from_readahead(cls, stats: Mapping[str, object]) -> IoCounters:
        """Return the counters that `_core.Readahead.stats` tells."""
        return cls(
            engine=str(stats["engine"]),
            bytes_read=_whole(stats["bytes_read"]),
            requests=_whole(stats["requests"]),
            busy_s=_whole(stats["busy_ns"]) / 1e9,
            stall_s=_whole(stats["stall_ns"]) / 1e9,
        )

    def since(self, earlier: IoCounters) -> IoCounters:
        """Return what happened after ``earlier``."""
        return IoCounters(
            self.engine,
            self.bytes_read - earlier.bytes_read,
            self.requests - earlier.requests,
            self.busy_s - earlier.busy_s,
            self.stall_s - earlier.stall_s,
        )

    def to_json(self) -> dict[str, float | int | str]:
        """Return the counters with the rate per busy second."""
        rate = self.bytes_read / self.busy_s / 1e9 if self.busy_s else 0.0
        return {**asdict(self), "gb_per_s": rate}


@dataclass(slots=True)
class MemoryCounters:
    """What was allowed and what was taken."""

    budget_bytes: int = 0
    peak_bytes: int = 0
    """The highest anonymous memory of the process."""
    file_mapped_bytes: int = 0
    cgroup_bytes: int | None = None
    """What is charged to the process's memory cgroup, where one limits it."""

    def to_json(self) -> dict[str, int]:
        """Return the counters that there are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(slots=True)
class RunCounters:
    """Everything that a run counts; features that do not exist count zero."""

    total_bytes: int = 0
    resident_bytes: int = 0
    streamed_bytes_per_sweep: int = 0
    scheme: str | None = None
    """How weights are packed, as `inspect` names it; several with commas, None if they are not."""
    sweeps: int = 0
    timings: Timings = field(default_factory=Timings)
    io: IoCounters = field(default_factory=IoCounters)
    memory: MemoryCounters = field(default_factory=MemoryCounters)

    def to_json(self) -> dict[str, object]:
        """Return the keys of `run --json` that tell of the model and the run."""
        return {
            "timings": self.timings.to_json(),
            "weights": {
                "total_bytes": self.total_bytes,
                "resident_bytes": self.resident_bytes,
                "streamed_bytes_per_sweep": self.streamed_bytes_per_sweep,
                "scheme": self.scheme,
            },
            "io": self.io.to_json(),
            "memory": self.memory.to_json(),
            "sweeps": self.sweeps,
            "draft": {"proposed": 0, "accepted": 0},
            "experts": {"hits": 0, "misses": 0},
        }


def _whole(value: object) -> int:
    assert isinstance(value, int), "the extension counts in whole numbers"
    return value
