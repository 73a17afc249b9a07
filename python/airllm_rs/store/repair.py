"""A store with damaged files opened again, so that only those are made anew."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.durable import sync_directory, write_json
from airllm_rs.checkpoint.safetensors_files import MANIFEST, RECORDS
from airllm_rs.store.verification import damaged_files, is_verified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.stats.progress import Progress
    from airllm_rs.store.manifest import Store, StoredFile

log = logging.getLogger(__name__)


def damage(store: Store, progress: Progress, memory_bytes: int) -> Sequence[StoredFile]:
    """Return the files that are not what was written; none of a store that was verified before.

    Raises:
        StoreError: if a directory of the store is not there.
        OSError: if a file cannot be read.
    """
    if is_verified(store):
        return ()
    log.info("%s is there already: verifying it", store.directory)
    found = damaged_files(store, progress, memory_bytes)
    for _, why in found:
        log.warning("%s", why.partition(";")[0])
    return [file for file, _ in found]


def reopen(store: Store, damaged: Sequence[StoredFile]) -> None:
    """Make a store one that is not finished: what is whole has a record, the rest goes.

    Raises:
        OSError: if a file cannot be written.
    """
    for directory in store.directories:
        (directory / RECORDS).mkdir(exist_ok=True)
    for file in store.files:
        path = store.directories[file.directory] / file.name
        if file in damaged:
            path.unlink(missing_ok=True)
        else:
            write_json(path.parent / RECORDS / f"{file.name}.json", file._asdict())
    for directory in store.directories:
        sync_directory(directory / RECORDS)
    (store.directory / MANIFEST).unlink()
    sync_directory(store.directory)
