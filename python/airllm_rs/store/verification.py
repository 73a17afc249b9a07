"""Checksums of stores: checked at once, or at the first load after a store was made or changed."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.checkpoint.cache_directory import cache_directory
from airllm_rs.checkpoint.durable import write_json
from airllm_rs.checkpoint.safetensors_files import MANIFEST, RECORDS
from airllm_rs.errors import CheckpointError, StoreError
from airllm_rs.store.manifest import read_store, stripe_of
from airllm_rs.store.workforce import verifying_threads

if TYPE_CHECKING:
    from pathlib import Path

    from airllm_rs.stats.progress import Progress
    from airllm_rs.store.manifest import Store, StoredFile

log = logging.getLogger(__name__)

MODES = ("off", "first", "always")
"""What ``verify=`` may be."""


def verify_store(directory: Path, progress: Progress, memory_bytes: int | None = None) -> int:
    """Read every byte of a store, hold it against its checksum, and return how many there are.

    Args:
        directory: Has the manifest.
        progress: Shows how far it is.
        memory_bytes: The budget of the whole process.

    Raises:
        StoreError: if there is no store in the directory.
        CheckpointError: naming file, chunk and tensor of the first bytes that are not right.
        OSError: if a file cannot be read.
    """
    store = store_in(directory)
    nbytes = _verify(store, progress, memory_bytes)
    _remember(store)
    return nbytes


def store_in(directory: Path) -> Store:
    """Return the store in a directory.

    Raises:
        StoreError: if there is none; says what is there instead.
        CheckpointError: if its manifest cannot be used.
        OSError: if that cannot be read.
    """
    if not directory.exists():
        raise StoreError(f"{directory}: no such directory")
    if directory.is_file():
        raise StoreError(f"{directory} is a file, and no shard store: name a store's directory")
    store = read_store(directory)
    if store is not None:
        return store
    stripe = stripe_of(directory)
    if stripe is not None:
        raise StoreError(f"{directory} holds a part of the store {stripe.store}: name that instead")
    if (directory / RECORDS).is_dir():
        raise StoreError(
            f"{directory} is a shard store that is not finished: the same `airllm-rs shard` goes on"
        )
    raise StoreError(f"{directory} has no {MANIFEST}: it is no shard store")


def damaged_files(
    store: Store, progress: Progress, memory_bytes: int | None = None
) -> list[tuple[StoredFile, str]]:
    """Return the files of a store that are not what was written, each with what is wrong.

    Raises:
        StoreError: if a directory of the store is not there.
        OSError: if a file cannot be read.
    """
    for place in store.directories[1:]:
        stripe = stripe_of(place)
        if stripe is None or stripe.id != store.id:
            raise StoreError(
                f"{place}: has no part of the store in {store.directory}; is the right disk "
                f"mounted? If it is gone, remove the rest with `airllm-rs cache rm "
                f"{store.directory}`"
            )
    try:
        _verify(store, progress, memory_bytes)
    except CheckpointError:
        pass
    else:
        _remember(store)
        return []
    manifest = json.loads(_core.read_manifest(store.directory) or "{}")
    found = []
    for file in store.files:
        own = json.dumps({**manifest, "files": [file._asdict()]})
        try:
            threads = verifying_threads(memory_bytes)
            _core.verify_store(store.directory, threads=threads, manifest=own)
        except CheckpointError as error:
            found.append((file, str(error)))
    return found


def verify_at_load(
    directory: Path, mode: str, progress: Progress, memory_bytes: int | None = None
) -> None:
    """Verify a store as ``verify=`` says; what is no store has no checksums.

    Raises:
        CheckpointError: naming file, chunk and tensor of the first bytes that are not right.
        OSError: if a file cannot be read.
    """
    if mode == "off":
        return
    store = read_store(directory)
    if store is None or (mode == "first" and is_verified(store)):
        return
    log.info("verifying %s (verify='off' leaves it out)", directory)
    _verify(store, progress, memory_bytes)
    _remember(store)


def is_verified(store: Store) -> bool:
    """Tell whether a store was verified and has not been changed since."""
    try:
        known = json.loads(_record(store).read_bytes())
        return isinstance(known, dict) and known.get("state") == _state(store)
    except (OSError, ValueError):
        return False


def _verify(store: Store, progress: Progress, memory_bytes: int | None) -> int:
    try:
        with progress.task(f"verifying {store.directory.name}", store.nbytes) as task:
            return _core.verify_store(
                store.directory,
                threads=verifying_threads(memory_bytes),
                progress=lambda nbytes, _made, _kept: task.update(nbytes),
            )
    except CheckpointError:
        with suppress(OSError):
            _record(store).unlink(missing_ok=True)
        raise


def _state(store: Store) -> str:
    """Return what changes whenever the store does: manifest, sizes and times of change."""
    digest = hashlib.sha256((store.directory / MANIFEST).read_bytes())
    for path in store.paths:
        stat = path.stat()
        digest.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _record(store: Store) -> Path:
    place = hashlib.sha256(str(store.directory.resolve()).encode()).hexdigest()[:32]
    return cache_directory() / "verified" / f"{place}.json"


def _remember(store: Store) -> None:
    path = _record(store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {"store": str(store.directory.resolve()), "state": _state(store)}
        write_json(path, known, is_locked=False)
    except OSError as error:
        # a home that cannot be written to costs another verification, nothing else
        log.debug("verification not recorded: %s", error)
