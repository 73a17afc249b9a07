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
from airllm_rs.checkpoint.durable import write_json
from airllm_rs.checkpoint.safetensors_files import MANIFEST, RECORDS
from airllm_rs.checkpoint.writing import INDEX
from airllm_rs.errors import CheckpointError, StoreError
from airllm_rs.store.making import LOCK
from airllm_rs.store.manifest import STRIPE, read_store

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """``store``, ``converted``, ``unfinished``, or ``unused``: a conversion that nothing reads."""
    nbytes: int
    source: str
    """What it was made of, as far as that is known."""
    scheme: str | None
    in_cache: bool
    """Whether it lies in our cache directory, where everything is ours."""


def register(store: Store) -> None:
    """Remember a store, wherever it is, so that `entries` shows it."""
    path = _record(store.directory)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"directory": str(store.directory.resolve())})
    except OSError as error:
        # a home that cannot be written to costs a line of a list, nothing else
        log.debug("store not recorded: %s", error)


def entries() -> list[CacheEntry]:
    """Return all that is there, the largest first."""
    found = {entry.path: entry for entry in (*_inside(), *_outside())}
    return sorted(found.values(), key=lambda entry: -entry.nbytes)


def remove(path: Path) -> int:
    """Delete what `entries` has at ``path``, and return the bytes that are free now.

    Of a store outside the cache directory only the store's own files go.

    Raises:
        StoreError: if there is nothing of ours.
        OSError: if a file cannot be deleted.
    """
    wanted = path.resolve()
    for entry in entries():
        if entry.path.resolve() == wanted:
            if entry.in_cache:
                shutil.rmtree(entry.path)
            else:
                _remove_store(entry.path)
            _record(entry.path).unlink(missing_ok=True)
            return entry.nbytes
    raise StoreError(f"{path} is nothing that airllm-rs has made: `cache list` shows what is")


def prune() -> tuple[list[CacheEntry], int]:
    """Delete what nothing will use: unfinished conversions, records of stores that are gone.

    A conversion that another process is working on begins anew. What is finished stays, for it may
    be the only copy; one that nothing reads any more is named in the log.
    """
    found = entries()
    for entry in found:
        if entry.kind == "unused":
            log.warning(
                "%s is a bf16 copy of a GGUF file, which is read in place: `cache rm` deletes it",
                entry.path,
            )
    gone = [entry for entry in found if entry.kind == "unfinished" and entry.in_cache]
    nbytes = sum(remove(entry.path) for entry in gone)
    for directory, key in ((_REGISTRY, "directory"), (_VERIFIED, "store")):
        for record in sorted((cache_directory() / directory).glob("*.json")):
            place = _place(record, key)
            if place is None or not (place / MANIFEST).exists():
                record.unlink()
    return gone, nbytes


def _inside() -> Iterator[CacheEntry]:
    for home in (STORES, CONVERTED):
        directory = cache_directory() / home
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            if path.is_dir() and not path.name.startswith("."):
                yield _entry(path, in_cache=True)


def _outside() -> Iterator[CacheEntry]:
    cache = cache_directory().resolve()
    for record in sorted((cache_directory() / _REGISTRY).glob("*.json")):
        place = _place(record, "directory")
        if place is not None and (place / MANIFEST).exists() and cache not in place.parents:
            yield _entry(place, in_cache=False)


def _entry(path: Path, *, in_cache: bool) -> CacheEntry:
    try:
        store = read_store(path)
    except (CheckpointError, OSError):
        store = None  # of another version: it still takes room
    if store is not None:
        directories, source = store.directories, str(store.source.get("name", ""))
        nbytes = sum(_size(directory) for directory in directories)
        return CacheEntry(path, "store", nbytes, source, store.scheme, in_cache)
    kind = "converted"
    if (path / RECORDS).exists() or path.name.endswith(".partial"):
        kind = "unfinished"
    elif _OLD_GGUF.search(path.name):
        kind = "unused"
    return CacheEntry(path, kind, _size(path), "", None, in_cache)


def _remove_store(directory: Path) -> None:
    store = read_store(directory)
    if store is None:
        raise StoreError(f"{directory} has no {MANIFEST}")
    # first the manifest: half a store is none
    (directory / MANIFEST).unlink()
    for path in (*store.paths, *(directory / name for name in store.companions)):
        path.unlink(missing_ok=True)
    for place in store.directories:
        for name in (INDEX, STRIPE, LOCK):
            (place / name).unlink(missing_ok=True)
    left = sorted(path.name for path in directory.iterdir())
    if left:
        log.info("left in %s: %s", directory, ", ".join(left))


def _place(record: Path, key: str) -> Path | None:
    try:
        known = json.loads(record.read_bytes())
    except (OSError, ValueError):
        return None
    place = known.get(key) if isinstance(known, dict) else None
    return Path(place) if isinstance(place, str) else None


def _record(directory: Path) -> Path:
    name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:32]
    return cache_directory() / _REGISTRY / f"{name}.json"


def _size(directory: Path) -> int:
    try:
        return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
    except OSError:
        return 0
