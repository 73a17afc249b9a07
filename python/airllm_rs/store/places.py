"""Directories that a store is made in: fit for one, held against others, and what they hold."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.durable import locked
from airllm_rs.checkpoint.safetensors_files import MANIFEST, RECORDS, STRIPE
from airllm_rs.errors import StoreError
from airllm_rs.store.manifest import read_store, stripe_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from airllm_rs.store.identity import SourceIdentity
    from airllm_rs.store.manifest import Store

LOCK = ".airllm_rs.lock"


@contextmanager
def held(directories: Sequence[Path], source: Path) -> Iterator[None]:
    """Make the directories and keep other processes out of them.

    Where nothing was begun when it fails, nothing is left: no lock, and no directory that it made.

    Raises:
        StoreError: if they are not fit for a store.
        OSError: if one cannot be written to.
    """
    resolved = [directory.resolve() for directory in directories]
    if len(set(resolved)) < len(resolved):
        raise StoreError("a directory is named twice: each stripe needs its own")
    for directory in resolved:
        if directory == source.resolve():
            raise StoreError(f"{directory} has the checkpoint: a store needs its own directory")
    fresh = {path for directory in resolved for path in _missing(directory)}
    with ExitStack() as stack:
        try:
            # in one order, so that no two processes wait for each other
            for directory in sorted(resolved):
                directory.mkdir(parents=True, exist_ok=True)
                _require_writable(directory)
                _require_own(directory, resolved[0])  # before a lock is left in it
                stack.enter_context(locked(directory / LOCK))
            for directory in resolved:
                _require_own(directory, resolved[0])
            yield
        except BaseException:
            _clear(resolved, fresh)
            raise


def existing_store(
    directories: Sequence[Path], identity: SourceIdentity, scheme: str | None
) -> Store | None:
    """Return the store in the directories if it is the one wanted, None if there is none.

    Raises:
        StoreError: if it is another one.
    """
    store = read_store(directories[0])
    if store is None:
        return None
    name, others = store.source.get("name", "unknown"), store.directories[1:]
    if store.fingerprint != identity.fingerprint:
        raise StoreError(
            f"{store.directory} holds a store of {name}, made of other files than "
            f"{identity.name} has: {_instead(store.directory)}"
        )
    if store.scheme != scheme:
        raise StoreError(
            f"{store.directory} holds a store of {name} with compression="
            f"{store.scheme or 'none'}, not {scheme or 'none'}: {_instead(store.directory)}"
        )
    if [path.resolve() for path in others] != [path.resolve() for path in directories[1:]]:
        raise StoreError(
            f"{store.directory} holds this store spread over {len(others) + 1} directories, "
            f"others than those asked for: {_instead(store.directory)}"
        )
    return store


def _instead(directory: object) -> str:
    return f"remove it with `airllm-rs cache rm {directory}`, or choose another directory"


def _missing(directory: Path) -> Iterator[Path]:
    """Return what would have to be made for a directory to be there.

    Raises:
        StoreError: if something else is in its place.
    """
    for path in (directory, *directory.parents):
        if path.is_dir():
            return
        if path.exists():
            raise StoreError(f"{path} is a file: a store needs a directory")
        yield path


def _require_writable(directory: Path) -> None:
    if os.access(directory, os.W_OK):
        return
    is_read_only = hasattr(os, "statvfs") and os.statvfs(directory).f_flag & os.ST_RDONLY
    code = errno.EROFS if is_read_only else errno.EACCES
    raise OSError(code, f"{os.strerror(code)}: choose another place", str(directory))


def _require_own(directory: Path, first: Path) -> None:
    """Raise unless a directory is empty or of the store in ``first``: nothing is overwritten."""
    names = {path.name for path in directory.iterdir()} - {LOCK, "lost+found"}
    if MANIFEST in names:
        if directory != first:
            raise StoreError(f"{directory} holds a store of its own: {_instead(directory)}")
        return  # which one, `existing_store` looks at
    stripe = stripe_of(directory)
    if STRIPE in names and (stripe is None or stripe.store.resolve() != first):
        whose = f"a part of the store {stripe.store}" if stripe else "a part of some store"
        place = stripe.store if stripe and stripe.is_used(directory) else directory
        raise StoreError(f"{directory} holds {whose}: {_instead(place)}")
    if names and not names & {STRIPE, RECORDS}:
        raise StoreError(f"{directory} has other files in it: give an empty or a new directory")


def _clear(directories: Sequence[Path], fresh: set[Path]) -> None:
    """Take back what `held` made, where nothing else is."""
    for directory in directories:
        with suppress(OSError):
            if {path.name for path in directory.iterdir()} <= {LOCK}:
                (directory / LOCK).unlink(missing_ok=True)
    for path in sorted(fresh, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):  # not empty, or not made
            path.rmdir()
