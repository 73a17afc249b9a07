"""``compression=``: a store of the checkpoint, found beside it or in our cache, else made."""

from __future__ import annotations

import logging
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.auto.bridging import refuse_bridged
from airllm_rs.checkpoint import cache_directory, open_checkpoint
from airllm_rs.checkpoint.packed import method_of
from airllm_rs.checkpoint.safetensors_files import MANIFEST
from airllm_rs.checkpoint.splits import find_split, is_split
from airllm_rs.errors import AirLLMError, StoreError
from airllm_rs.families import understand
from airllm_rs.memory import choose_budget, told_of_budget
from airllm_rs.store import StoreRequest, make_store, read_store
from airllm_rs.store.identity import hub_snapshot, identify
from airllm_rs.store.making import refuse_what_is_encoded, refuse_what_is_quantised
from airllm_rs.store.preview import preview
from airllm_rs.store.registry import STORES, register, stores

if TYPE_CHECKING:
    from airllm_rs.auto.options import LoadOptions
    from airllm_rs.checkpoint import ModelFiles
    from airllm_rs.config import ModelConfig
    from airllm_rs.stats.progress import Progress
    from airllm_rs.store import Store
    from airllm_rs.store.identity import SourceIdentity

log = logging.getLogger(__name__)

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def find_prepared(directory: Path, options: LoadOptions) -> Path | None:
    """Return what was made of a checkpoint whose weights are not there, None if there is nothing.

    It is a store of ours, or a directory that AirLLM has split it into.

    Args:
        directory: Has the configuration.
        options: What is asked for.

    Raises:
        StoreError: if only a store of another scheme has the weights; names it.
    """
    if is_split(directory) or read_store(directory) is not None:
        return None
    has_weights = any(path for pattern in _WEIGHTS for path in directory.glob(pattern))
    if options.compression is None and has_weights:
        return None
    made = [] if has_weights else _stores(directory, options)
    for store in made:
        if store.scheme == options.compression:
            log.info("the weights of %s come from %s", directory.name, store.directory)
            return store.directory
    shards = options.layer_shards_saving_path
    places = (directory, Path(shards).expanduser() if shards else None)
    split = find_split(places, options.compression)
    if split is not None:
        log.info("the weights of %s come from AirLLM's %s", directory.name, split)
    elif made and hub_snapshot(directory) is None:  # what is on the hub can be downloaded again
        store = made[0]
        raise StoreError(
            f"{directory} has no weights any more: they are in {store.directory}, "
            f"{store.scheme or 'as they were'}; name that instead"
        )
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
    refuse_bridged(config, f"compression={scheme!r}", "leave it out")
    refuse_what_is_encoded(files, scheme)
    # config.json knows it even where tensors are missing
    announced = filter(None, [method_of(files.config)])
    refuse_what_is_quantised(files.path, files.schemes or announced, scheme)
    identity = identify(files.path, files.files)
    place = _home(options) / f"{_name(files.path)}-{scheme}-{identity.fingerprint[:16]}"
    store = read_store(place) or _elsewhere(identity, options)
    config, family, _ = understand(config, files)
    if store is None:
        if not options.may_make:
            log.info(
                "there is no %s store of %s yet: this is what it would be", scheme, identity.name
            )
            return preview(files, config, family, scheme)
        log.warning("making a %s copy of %s, once, in %s", scheme, identity.name, place)
    budget = choose_budget(options.memory)
    request = StoreRequest(
        files=files,
        config=config,
        family=family,
        scheme=scheme,
        directories=store.directories if store is not None else (place.absolute(),),
        memory_bytes=budget.nbytes,
        may_delete=options.delete_original,
        # at this load or never: what is verified is not verified twice
        may_repair=options.may_make and options.verify != "off",
    )
    with told_of_budget(budget):
        made = make_store(request, progress)
    register(made.store)
    return open_checkpoint(made.store.directory)


def _elsewhere(identity: SourceIdentity, options: LoadOptions) -> Store | None:
    """Return a store of the same files and scheme that was made where the user wanted it."""
    if options.layer_shards_saving_path is not None:
        return None  # is wanted there
    for store in stores():
        if (store.fingerprint, store.scheme) == (identity.fingerprint, options.compression):
            log.info("the weights come from %s, which was made before", store.directory)
            return store
    return None


def _home(options: LoadOptions) -> Path:
    shards = options.layer_shards_saving_path
    return Path(shards).expanduser() if shards else cache_directory() / STORES


def _name(directory: Path) -> str:
    found = hub_snapshot(directory)
    return found[0].replace("/", "--") if found else directory.resolve().name


def _stores(directory: Path, options: LoadOptions) -> list[Store]:
    """Return the stores that were made of a checkpoint, of whatever scheme, the latest first.

    They are found by its name: its files, which tell one state of it from another, may be gone.
    """
    found = hub_snapshot(directory)
    name, commit = found or (str(directory.resolve()), None)
    home = _home(options)
    places = home.glob(f"{escape(_name(directory))}-*") if home.is_dir() else ()
    every = {store.directory.resolve(): store for store in stores()}
    for path in places:
        try:
            store = read_store(path)
        except (AirLLMError, OSError):
            continue  # of another version
        if store is not None:
            every[path.resolve()] = store
    own = [
        store
        for store in every.values()
        if store.source.get("name") == name and store.source.get("commit") == commit
    ]
    return sorted(own, key=lambda store: _made_ns(store.directory), reverse=True)


def _made_ns(store: Path) -> int:
    try:
        return (store / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0
