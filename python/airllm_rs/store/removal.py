"""Stores deleted, whole, unfinished or damaged: their own files, and no others."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.checkpoint.safetensors_files import MANIFEST, RECORDS, STRIPE
from airllm_rs.checkpoint.writing import INDEX
from airllm_rs.errors import CheckpointError, StoreError
from airllm_rs.store.manifest import stripe_of
from airllm_rs.store.places import LOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airllm_rs.store.manifest import Store

log = logging.getLogger(__name__)

# What lies beside weights on the hub; a manifest that can be read names what was copied.
_COMPANIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
_OURS = (MANIFEST, INDEX, STRIPE, LOCK)


def remove_store(store: Store) -> None:
    """Delete a store that is complete, in all its directories.

    Raises:
        StoreError: if the manifest names a directory that is no part of the store.
        OSError: if a file cannot be deleted.
    """
    parts = [place for place in store.directories[1:] if _is_to_go(place, store)]
    own = [store.directory, *parts]
    # first the manifest: half a store is none
    (store.directory / MANIFEST).unlink()
    companions = (store.directory / name for name in store.companions)
    for path in (*store.paths, *companions):
        if path.parent in own:
            path.unlink(missing_ok=True)
    for place in own:
        _finish(place)


def remove_remains(directory: Path) -> None:
    """Delete what there is of a store that is unfinished, a part, or has a broken manifest.

    Weights go by what their headers and the records of finished files say, and of the rest what
    such files are usually called; whatever else there is stays.
    """
    for path in [*_weights(directory), *(directory / name for name in _COMPANIONS)]:
        path.unlink(missing_ok=True)
    for pattern in ("*.safetensors.tmp", "*.json.tmp"):
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)
    _finish(directory)


def _is_to_go(place: Path, store: Store) -> bool:
    """Tell whether a directory that the manifest names is a part; it may name any."""
    if not place.is_dir():
        log.warning("%s, with a part of the store, is not there and stays as it is", place)
        return False
    stripe = stripe_of(place)
    if stripe is None or stripe.id != store.id:
        raise StoreError(
            f"{store.directory} names {place}, which is no part of it: nothing was deleted"
        )
    # the store may have been moved, or copied
    if stripe.store.resolve() != store.directory.resolve() and stripe.is_used(place):
        log.info("%s stays: it is a part of %s", place, stripe.store)
        return False
    return True


def _weights(directory: Path) -> Iterator[Path]:
    recorded = {record.stem for record in (directory / RECORDS).glob("*.safetensors.json")}
    for path in sorted(directory.glob("*.safetensors")):
        if path.name in recorded or _is_ours(path):
            yield path


def _is_ours(path: Path) -> bool:
    try:
        return "airllm_rs.format_version" in _core.Checkpoint.open(path).metadata
    except (CheckpointError, OSError):
        return False


def _finish(directory: Path) -> None:
    for name in _OURS:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / RECORDS, ignore_errors=True)
    left = sorted(path.name for path in directory.iterdir())
    if left:
        log.info("left in %s: %s", directory, ", ".join(left))
    with suppress(OSError):  # not empty, or where a disk is mounted
        directory.rmdir()
