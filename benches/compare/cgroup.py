"""A memory cgroup of our own, version 1 or 2, for one measured process."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

V1_ROOT = Path("/sys/fs/cgroup/memory")
V2_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Counters:
    """What the kernel counted for the group."""

    failcnt: int  # how often the limit was hit
    max_usage_bytes: int | None  # anonymous memory and page cache; None before Linux 5.19 on v2


def can_limit() -> bool:
    """Return whether we may make a memory cgroup here."""
    try:
        with MemoryGroup(1 << 30):
            return True
    except SystemExit:
        return False


class MemoryGroup:
    """A memory cgroup with a limit, removed at the end; needs root, or a delegated v2 subtree."""

    def __init__(self, limit_bytes: int) -> None:
        self.is_v1 = (V1_ROOT / "memory.limit_in_bytes").exists()
        self.path = (V1_ROOT if self.is_v1 else V2_ROOT) / f"airllm-rs-compare-{os.getpid()}"
        try:
            self.path.mkdir()
            if self.is_v1:
                self._write("memory.limit_in_bytes", limit_bytes)
            else:
                self._write("memory.max", limit_bytes)
                self._write("memory.swap.max", 0)
        except OSError as error:
            self.close()
            raise SystemExit(
                f"cannot make a memory cgroup ({error}): run as root, or with --limit none"
            ) from error

    @property
    def procs(self) -> Path:
        """The file that takes the process ids of members."""
        return self.path / "cgroup.procs"

    def read(self) -> Counters:
        """Return the counters so far."""
        if self.is_v1:
            return Counters(
                int(self._read("memory.failcnt")), int(self._read("memory.max_usage_in_bytes"))
            )
        events = dict(line.split() for line in self._read("memory.events").splitlines())
        peak = self.path / "memory.peak"
        return Counters(int(events["max"]), int(peak.read_text()) if peak.exists() else None)

    def close(self) -> None:
        """Remove the group; the kernel may need a moment after its last process has gone."""
        for _ in range(50):
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.1)
            else:
                return

    def _read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value), encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
