"""Files that are whole or absent, also after a power cut, and never written by two processes."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file ``path``, and hold it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            _lock(file)
            # whoever held it may have removed it, directory and all
            if _is_at(file, path):
                yield
                return


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file ``path`` unless another process does; yields whether it is held.

    What does not exist nobody holds, and it is not made.
    """
    try:
        file = path.open("r+")
    except FileNotFoundError:
        yield True
        return
    with file:
        try:
            _lock(file, wait=False)
        except BlockingIOError:
            yield False
            return
        yield True


def _lock(file: IO[str], *, wait: bool = True) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write_json(
    path: Path, content: Mapping[str, object], *, indent: int | None = None, is_locked: bool = True
) -> None:
    """Write ``content`` to ``path``, which is replaced at once.

    Args:
        path: Where to.
        content: What.
        indent: Spaces of each level; all on one line if None.
        is_locked: Whether nobody else writes it. Else each process writes a file of its own first,
            and the last one counts.
    """
    temporary = path.with_name(
        f"{path.name}.tmp" if is_locked else f"{path.name}.{os.getpid()}.tmp"
    )
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=indent, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` last."""
    if os.name == "nt":
        return  # directories cannot be opened there
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
