"""The memory cgroup of this process: limits and use, of versions 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/")
# Version 1 writes "no limit" as the largest multiple of the page size.
_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """One level of the hierarchy that limits memory."""

    path: Path
    limit_bytes: int
    used_bytes: int
    """All that is charged, page cache included."""
    anon_bytes: int
    """The part that cannot be given back without swap."""
    failures: int
    """How often the limit was reached."""


def memory_cgroup(root: Path = ROOT) -> MemoryCgroup | None:
    """Return the level on this process's path that limits it most, None without a limit.

    Args:
        root: Where /proc and /sys are found.
    """
    found = [level for directory, version in _levels(root) if (level := _level(directory, version))]
    return min(found, key=lambda level: level.limit_bytes, default=None)


def cgroup_bytes(root: Path = ROOT) -> int:
    """Return what is charged to the process's own memory cgroup, 0 if that cannot be told."""
    for directory, version in _levels(root):
        name = "memory.current" if version == 2 else "memory.usage_in_bytes"
        used = _number(directory / name)
        if used is not None:
            return used
    return 0


def _level(directory: Path, version: int) -> MemoryCgroup | None:
    stat = _table(directory / "memory.stat")
    if version == 2:
        # memory.high does not kill, but a process above it hardly moves
        limits = [_number(directory / name) for name in ("memory.max", "memory.high")]
        used = _number(directory / "memory.current")
        anon = stat.get("anon", 0)
        failures = _table(directory / "memory.events").get("max", 0)
    else:
        limits = [_number(directory / "memory.limit_in_bytes")]
        used = _number(directory / "memory.usage_in_bytes")
        anon = stat.get("total_rss", stat.get("rss", 0))
        failures = _number(directory / "memory.failcnt") or 0
    known = [limit for limit in limits if limit is not None and limit < _UNLIMITED]
    if not known:
        return None
    return MemoryCgroup(directory, min(known), used or 0, anon, failures)


def _levels(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield the directories from the process's own cgroup up to the mount, with their version."""
    for version, path in _memberships(root):
        for mount_root, mount in _mounts(root, version):
            relative = PurePosixPath(path)
            if relative.is_relative_to(mount_root):
                relative = relative.relative_to(mount_root)
            elif path == "/" or ".." in relative.parts:
                relative = PurePosixPath()  # from inside a namespace: what is mounted is all we see
            else:
                relative = PurePosixPath(path.lstrip("/"))
            top = root / mount.lstrip("/")
            own = top / relative if ".." not in relative.parts else top
            if not own.is_dir():
                own = top
            while True:
                yield own, version
                if own == top:
                    break
                own = own.parent


def _memberships(root: Path) -> Iterator[tuple[int, str]]:
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            yield 1, path
        elif number == "0" and not controllers:
            yield 2, path


def _mounts(root: Path, version: int) -> Iterator[tuple[str, str]]:
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        is_v1 = kind[0] == "cgroup" and "memory" in kind[2].split(",")
        if (kind[0] == "cgroup2") if version == 2 else is_v1:
            yield fields[3], fields[4]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _lines(path))
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
