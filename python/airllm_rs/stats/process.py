"""The memory of this process as the kernel counts it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

_STATUS = Path("/proc/self/status")
_FIELDS = {b"RssAnon": "anon_bytes", b"RssFile": "file_bytes", b"RssShmem": "shared_bytes"}


class ProcessMemory(NamedTuple):
    """Resident memory by kind; all zero where the kernel does not tell."""

    anon_bytes: int = 0
    """What the process owns: heap, arena, stacks (``RssAnon``)."""
    file_bytes: int = 0
    """Pages of files that are mapped, libraries above all (``RssFile``)."""
    shared_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """What counts against a budget."""
        return self.anon_bytes + self.file_bytes


def process_memory(status: Path = _STATUS) -> ProcessMemory:
    """Return what the kernel says in /proc/self/status."""
    try:
        text = status.read_bytes()
    except OSError:
        return ProcessMemory()
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        if name in _FIELDS:
            found[_FIELDS[name]] = int(value.split()[0]) * 1024
    return ProcessMemory(**found)


class PeakMemory:
    """The highest memory seen by `sample`."""

    def __init__(self) -> None:
        self.anon_bytes = 0
        self.file_bytes = 0
        self.total_bytes = 0
        """The highest sum, not the sum of the highest."""

    def sample(self) -> ProcessMemory:
        """Look at the memory of this process; takes some tens of microseconds."""
        memory = process_memory()
        self.anon_bytes = max(self.anon_bytes, memory.anon_bytes)
        self.file_bytes = max(self.file_bytes, memory.file_bytes)
        self.total_bytes = max(self.total_bytes, memory.total_bytes)
        return memory
