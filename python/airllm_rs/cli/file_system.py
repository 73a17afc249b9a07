"""The file system that a path is on, and the disk below it, as the kernel tells."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where a path is."""

    kind: str
    """``ext4``, ``overlay``, …; ``unknown`` where the kernel does not tell."""
    mount: str
    source: str
    free_bytes: int
    device: str | None
    """The name of the block device, None if there is none."""
    model: str | None
    is_rotational: bool | None
    """Virtual disks say so without knowing it; theirs is None."""


def file_system(path: Path, root: Path) -> FileSystem:
    """Return the file system that ``path``, which exists, is on.

    Args:
        path: What is asked about.
        root: Where /proc and /sys are found.
    """
    resolved = path.resolve()
    kind, mount, source = "unknown", "/", "unknown"
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 5 or len(rest) < 2:
            continue
        point = _unescaped(fields[4])
        # of two on the same point, the later one is seen
        if resolved.is_relative_to(point) and len(point) >= len(mount):
            kind, mount, source = rest[0], point, _unescaped(rest[1])
    number = path.stat().st_dev
    link = root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    free = shutil.disk_usage(path).free
    if not link.exists():
        return FileSystem(kind, mount, source, free, None, None, None)
    device = link.resolve()
    disk = device.parent if (device / "partition").exists() else device
    is_virtual = any(part.startswith("virtio") for part in disk.parts)
    rotational = "" if is_virtual else _text(disk / "queue/rotational").strip()
    return FileSystem(
        kind,
        mount,
        source,
        free,
        device.name,
        _text(disk / "device/model").strip() or None,
        rotational == "1" if rotational else None,
    )


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
