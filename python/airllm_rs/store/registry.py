"""What this package has put on the disk: stores wherever they are, conversions, measurements."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.cache_directory import cache_directory
from airllm_rs.checkpoint.converted import sources_of
from airllm_rs.checkpoint.durable import locked_if_free, write_json
from airllm_rs.checkpoint.safetensors_files import MANIFEST, RECORDS
from airllm_rs.errors import CheckpointError, StoreError
from airllm_rs.store.manifest import read_store, stripe_of
from airllm_rs.store.places import LOCK
from airllm_rs.store.removal import remove_remains, remove_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airllm_rs.store.manifest import Store

log = logging.getLogger(__name__)

# bf16 copies of GGUF files, which are read in place
_OLD_GGUF = re.compile(r"-bf16-1-[0-9a-f]{16}$")

STORES = "stores"
CONVERTED = "converted"
_REGISTRY = "made"
_VERIFIED = "verified"


@dataclass(frozen=True)
class CacheEntry:
    """Something that takes room on the disk."""

    path: Path
    kind: str
    """``store``, ``converted``, ``unfinished``, ``unused``: a conversion that nothing reads; or
    ``remains``: a store whose manifest cannot be read, or a part whose store is gone."""
    nbytes: int
    source: str
    """What it was made of, as far as that is known."""
    scheme: str | None
    in_cache: bool
    """Whether it lies in our cache directory, where everything is ours."""


def register(store: Store) -> None:
    """Remember a store, wherever it is, so that `entries` shows it."""
    register_begun(store.directory, str(store.source.get("name", "")))


def register_begun(directory: Path, source: str) -> None:
    """Remember a directory in which a store is made of ``source``."""
    path = _record(directory)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {"directory": str(directory.resolve()), "source": source}
        write_json(path, known, is_locked=False)
    except OSError as error:
        # a home that cannot be written to costs a line of a list, nothing else
        log.debug("store not recorded: %s", error)


def forget(directory: Path) -> None:
    """Forget a directory that has no store, or no longer one of its own."""
    try:
        _record(directory).unlink(missing_ok=True)
    except OSError as error:
        log.debug("still recorded: %s", error)


def stores() -> Iterator[Store]:
    """Return the complete stores that are known, those outside the cache directory first."""
    for entry in (*_outside(), *_inside()):
        if entry.kind == "store":
            store = read_store(entry.path)
            if store is not None:
                yield store


def entries() -> list[CacheEntry]:
    """Return all that is there, the largest first."""
    found = {entry.path: entry for entry in (*_inside(), *_outside())}
    return sorted(found.values(), key=lambda entry: -entry.nbytes)


def remove(*paths: Path) -> int:
    """Delete what `entries` has at ``paths``, or stores there that it does not know.

    Of what is outside the cache directory only a store's own files go. All are looked at before
    anything is deleted; what is named twice is deleted once.

    Returns:
        The bytes that are free now.

    Raises:
        StoreError: if there is nothing of ours, or another process is making it.
        OSError: if a file cannot be deleted.
    """
    known = entries()
    wanted = {entry.path.resolve(): entry for entry in (_find(path, known) for path in paths)}
    for entry in wanted.values():
        with locked_if_free(_lock_of(entry.path)) as is_free:
            if not is_free:
                raise StoreError(f"another process is making {entry.path}: let it finish first")
            _remove(entry)
    return sum(entry.nbytes for entry in wanted.values())


def _find(path: Path, known: Sequence[CacheEntry]) -> CacheEntry:
    wanted = path.resolve()
    for entry in known:
        if entry.path.resolve() == wanted:
            return entry
    stripe = stripe_of(wanted)
    if stripe is not None and _is_part(wanted):
        raise StoreError(f"{path} holds a part of the store {stripe.store}: remove that")
    is_store = (wanted / MANIFEST).exists() or (wanted / RECORDS).is_dir()
    if path.is_symlink() or not (is_store or stripe):
        raise StoreError(f"{path} is nothing that airllm-rs has made: `cache list` shows what is")
    return _entry(wanted, in_cache=False)


def prune() -> tuple[list[CacheEntry], int]:
    """Delete what nothing will use: unfinished conversions, records of stores that are gone.

    What another process is making stays. So does what is finished, for it may be the only copy; one
    that nothing reads any more is named in the log.
    """
    found = entries()
    for entry in found:
        if entry.kind == "unused":
            log.warning(
                "%s is a bf16 copy of a GGUF file, which is read in place: `cache rm` deletes it",
                entry.path,
            )
    gone = []
    for entry in found:
        if entry.kind == "unfinished":
            with locked_if_free(_lock_of(entry.path)) as is_free:
                if is_free:
                    _remove(entry)
                    gone.append(entry)
                else:
                    log.info("another process is making %s, which stays", entry.path)
    nbytes = sum(entry.nbytes for entry in gone)
    for directory, key in ((_REGISTRY, "directory"), (_VERIFIED, "store")):
        for record in sorted((cache_directory() / directory).glob("*.json")):
            place = _place(record, key)
            if place is None or not ((place / MANIFEST).exists() or (place / RECORDS).exists()):
                record.unlink()
    return gone, nbytes


def _inside() -> Iterator[CacheEntry]:
    for home in (STORES, CONVERTED):
        directory = cache_directory() / home
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            # a link leads to what is not in the cache
            is_own = path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
            if is_own and not _is_part(path):
                yield _entry(path, in_cache=True)


def _outside() -> Iterator[CacheEntry]:
    cache = cache_directory().resolve()
    for record in sorted((cache_directory() / _REGISTRY).glob("*.json")):
        place = _place(record, "directory")
        if place is None or cache in place.parents:
            continue
        is_begun = (place / MANIFEST).exists() or (place / RECORDS).is_dir()
        if is_begun and not _is_part(place):
            yield _entry(place, in_cache=False)


def _is_part(directory: Path) -> bool:
    """Tell whether a directory goes with a store whose manifest is elsewhere."""
    stripe = stripe_of(directory)
    return stripe is not None and stripe.is_used(directory)


def _entry(path: Path, *, in_cache: bool) -> CacheEntry:
    try:
        store = read_store(path)
    except (CheckpointError, OSError):
        store = None  # of another version: it still takes room
    if store is not None:
        directories, source = store.directories, str(store.source.get("name", ""))
        nbytes = sum(_size(directory) for directory in directories)
        return CacheEntry(path, "store", nbytes, source, store.scheme, in_cache)
    kind = "converted" if in_cache and not (path / MANIFEST).exists() else "remains"
    if (path / RECORDS).exists() or path.name.endswith(".partial"):
        kind = "unfinished"
    elif _OLD_GGUF.search(path.name):
        kind = "unused"
    return CacheEntry(path, kind, _size(path), _source(path), None, in_cache)


def _source(path: Path) -> str:
    """Return what something was made of, as far as it was remembered when it was begun."""
    known = _text(_record(path), "source")
    if known is not None:
        return known
    first = sources_of(path)[:1]
    return first[0] if first else ""


def _lock_of(path: Path) -> Path:
    """Return the lock that whoever makes a store or a conversion holds."""
    own = path / LOCK
    name = path.name.removesuffix(".partial")
    return own if own.exists() else path.with_name(f".{name}.lock")


def _remove(entry: CacheEntry) -> None:
    store = read_store(entry.path) if entry.kind == "store" else None
    if store is not None:
        remove_store(store)
    elif not entry.in_cache:
        remove_remains(entry.path)
    if entry.in_cache:
        shutil.rmtree(entry.path, ignore_errors=not entry.path.exists())
    forget(entry.path)


def _place(record: Path, key: str) -> Path | None:
    place = _text(record, key)
    return Path(place) if place is not None else None


def _text(record: Path, key: str) -> str | None:
    try:
        known = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return None
    text = known.get(key) if isinstance(known, dict) else None
    return text if isinstance(text, str) else None


def _record(directory: Path) -> Path:
    name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]
    return cache_directory() / _REGISTRY / f"{name}.json"


def _size(directory: Path) -> int:
    try:
        return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
    except OSError:
        return 0
