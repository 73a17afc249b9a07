"""Checksums of stores: checked at once, or at the first load after a store was made or changed."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.checkpoint.cache_directory import cache_directory
from airllm_rs.checkpoint.durable import write_json
from airllm_rs.checkpoint.safetensors_files import MANIFEST
from airllm_rs.errors import StoreError
from airllm_rs.store.manifest import read_store
from airllm_rs.store.workforce import verifying_threads

if TYPE_CHECKING:
    from pathlib import Path

    from airllm_rs.stats.progress import Progress
    from airllm_rs.store.manifest import Store

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
    store = read_store(directory)
    if store is None:
        raise StoreError(f"{directory} has no {MANIFEST}: it is no shard store, or not finished")
    nbytes = _verify(store, progress, memory_bytes)
    _remember(store)
    return nbytes


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
    if store is None or (mode == "first" and _is_remembered(store)):
        return
    log.info("verifying %s (verify='off' leaves it out)", directory)
    _verify(store, progress, memory_bytes)
    _remember(store)


def _verify(store: Store, progress: Progress, memory_bytes: int | None) -> int:
    with progress.task(f"verifying {store.directory.name}", store.nbytes) as task:
        return _core.verify_store(
            store.directory,
            threads=verifying_threads(memory_bytes),
            progress=lambda nbytes, _made, _kept: task.update(nbytes),
        )


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


def _is_remembered(store: Store) -> bool:
    try:
        known = json.loads(_record(store).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and known.get("state") == _state(store)


def _remember(store: Store) -> None:
    path = _record(store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"store": str(store.directory.resolve()), "state": _state(store)})
    except OSError as error:
        # a home that cannot be written to costs another verification, nothing else
        log.debug("verification not recorded: %s", error)
