"""``compression=``: a store of the checkpoint, found beside it or in our cache, else made."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint import cache_directory, open_checkpoint
from airllm_rs.checkpoint.splits import find_split, is_split
from airllm_rs.errors import AirLLMError, StoreError
from airllm_rs.families import understand
from airllm_rs.memory import choose_budget
from airllm_rs.store import StoreRequest, make_store, read_store
from airllm_rs.store.identity import hub_snapshot, identify
from airllm_rs.store.making import refuse_what_is_encoded, refuse_what_is_quantised
from airllm_rs.store.registry import STORES, register

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airllm_rs.auto.options import LoadOptions
    from airllm_rs.checkpoint import ModelFiles
    from airllm_rs.config import ModelConfig
    from airllm_rs.stats.progress import Progress
    from airllm_rs.store import Store

log = logging.getLogger(__name__)

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def find_prepared(directory: Path, options: LoadOptions) -> Path | None:
    """Return what was made of a checkpoint whose weights are not there, None if there is nothing.

    It is a store of ours, or a directory that AirLLM has split it into.

    Args:
        directory: Has the configuration.
        options: What is asked for.
    """
    if is_split(directory) or read_store(directory) is not None:
        return None
    has_weights = any(path for pattern in _WEIGHTS for path in directory.glob(pattern))
    if options.compression is None and has_weights:
        return None
    if not has_weights:
        for store in _stores(directory, options):
            log.info("the weights of %s come from %s", directory.name, store.directory)
            return store.directory
    shards = options.layer_shards_saving_path
    places = (directory, Path(shards).expanduser() if shards else None)
    split = find_split(places, options.compression)
    if split is not None:
        log.info("the weights of %s come from AirLLM's %s", directory.name, split)
    return split


def compressed(
    files: ModelFiles, config: ModelConfig, options: LoadOptions, progress: Progress
) -> ModelFiles:
    """Return the store that ``compression=`` asks for; the checkpoint itself without it.

    Raises:
        StoreError: if the weights are encoded otherwise already; says what to do.
        AirLLMError: for whatever keeps the store from being made.
        OSError: if a file cannot be read or written.
    """
    scheme = options.compression
    if scheme is None:
        if options.delete_original:
            log.info("delete_original=True deletes nothing: nothing is converted")
        return files
    if not files.is_local:
        raise StoreError(
            f"there is no {scheme} store of {files.path} yet, and its weights are on the hub: "
            "make one with `airllm-rs shard`, and plan for that"
        )
    if files.core.files and is_split(Path(files.core.files[0]).parent):
        return files
    own = read_store(files.path)
    if own is not None and own.scheme == scheme:
        return files
    if own is not None and own.scheme is not None:
        raise StoreError(
            f"{files.path} is a shard store with {own.scheme} weights: leave compression= out, "
            f"or start from the original checkpoint, {own.source.get('name', 'unknown')}"
        )
    refuse_what_is_encoded(files, scheme)
    refuse_what_is_quantised(files.path, files.schemes, scheme)
    identity = identify(files.path, files.files)
    place = _home(options) / f"{_name(files.path)}-{scheme}-{identity.fingerprint[:16]}"
    config, family, _ = understand(config, files)
    if read_store(place) is None:
        if not options.may_make:
            raise StoreError(
                f"there is no {scheme} store of {identity.name} yet: "
                "make one with `airllm-rs shard`, and plan for that"
            )
        log.info("making a %s copy of %s, once, in %s", scheme, identity.name, place)
    made = make_store(
        StoreRequest(
            files=files,
            config=config,
            family=family,
            scheme=scheme,
            directories=(place.absolute(),),
            memory_bytes=choose_budget(options.memory).nbytes,
            may_delete=options.delete_original,
        ),
        progress,
    )
    register(made.store)
    return open_checkpoint(place)


def _home(options: LoadOptions) -> Path:
    shards = options.layer_shards_saving_path
    return Path(shards).expanduser() if shards else cache_directory() / STORES


def _name(directory: Path) -> str:
    found = hub_snapshot(directory)
    return found[0].replace("/", "--") if found else directory.resolve().name


def _stores(directory: Path, options: LoadOptions) -> Iterator[Store]:
    """Return the stores of the wanted scheme that were made of a checkpoint, by its name."""
    found = hub_snapshot(directory)
    name, commit = found or (str(directory.resolve()), None)
    home = _home(options)
    for path in sorted(home.glob(f"{_name(directory)}-*")) if home.is_dir() else ():
        try:
            store = read_store(path)
        except (AirLLMError, OSError):
            continue  # of another version
        if store is None or store.scheme != options.compression:
            continue
        if store.source.get("name") == name and store.source.get("commit") == commit:
            yield store
