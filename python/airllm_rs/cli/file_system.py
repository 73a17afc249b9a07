"""The file system that a path is on, and the disks below it, as the kernel tells."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from airllm_rs.cli.block_device import block_device, text_of

if TYPE_CHECKING:
    from airllm_rs.cli.block_device import BlockDevice


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Where a path is."""

    kind: str
    """``ext4``, ``overlay``, …; ``unknown`` where the kernel does not tell."""
    mount: str
    source: str
    is_compressed: bool
    """Whether new files are compressed, as the mount's options say."""
    is_windows: bool
    """Whether it is Windows' and seen through WSL."""
    free_bytes: int
    device: BlockDevice | None
    """Of an overlay, where its upper directory is; None if there is none, or none to be seen."""


class _Mount(NamedTuple):
    number: str
    point: str
    kind: str
    source: str
    options: str


def file_system(path: Path, root: Path) -> FileSystem:
    """Return the file system that ``path``, which exists, is on.

    Args:
        path: What is asked about.
        root: Where /proc, /sys and /dev are found.
    """
    mounts = _mounts(root)
    status = path.stat()
    number = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    mount = _mount_of(path.resolve(), mounts) or _Mount(number, "/", "unknown", "unknown", "")
    options = mount.options.split(",")
    below = mount
    if mount.kind == "overlay":
        # of a container it is outside of what can be seen
        upper = next((name for name in options if name.startswith("upperdir=/")), "upperdir=/")
        inside = _unescaped(upper.removeprefix("upperdir=/"))
        if inside and _is_seen(root / inside):
            below = _mount_of(Path("/", inside), mounts) or mount
    return FileSystem(
        mount.kind,
        mount.point,
        mount.source,
        mount.kind == "btrfs" and any(name.startswith("compress") for name in options),
        mount.kind in ("9p", "drvfs") and "microsoft" in text_of(root / "proc/version").lower(),
        shutil.disk_usage(path).free,
        _device(below, root),
    )


def _mounts(root: Path) -> list[_Mount]:
    mounts = []
    for line in text_of(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 6 or len(rest) < 2:
            continue
        options = ",".join(rest[2:])
        mounts.append(
            _Mount(fields[2], _unescaped(fields[4]), rest[0], _unescaped(rest[1]), options)
        )
    return mounts


def _mount_of(path: Path, mounts: list[_Mount]) -> _Mount | None:
    found = None
    for mount in mounts:
        # of two on the same point, the later one is seen
        if path.is_relative_to(mount.point) and (
            found is None or len(mount.point) >= len(found.point)
        ):
            found = mount
    return found


def _device(mount: _Mount, root: Path) -> BlockDevice | None:
    link = root / "sys/dev/block" / mount.number
    if not link.exists():
        # btrfs has a number of its own, which belongs to no device; its source may be a link
        source = Path(mount.source)
        if not source.is_relative_to("/dev"):
            return None
        name = (root / source.relative_to("/")).resolve().name
        link = root / "sys/class/block" / name
    return block_device(link.resolve()) if link.exists() else None


def _is_seen(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # in a directory that is somebody else's


def _unescaped(written: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        written = written.replace(code, character)
    return written
