"""From what the user names to the files of a model."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.checkpoint.gguf import open_gguf
from airllm_rs.checkpoint.model_files import ModelFiles, read_json
from airllm_rs.checkpoint.packed import packed_weights
from airllm_rs.checkpoint.splits import configuration_of, is_split, open_split
from airllm_rs.errors import CheckpointError
from airllm_rs.stats.progress import NoProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airllm_rs.checkpoint.stored import StoredWeight
    from airllm_rs.checkpoint.tensor_table import TensorTable
    from airllm_rs.stats.progress import Progress

MANIFEST = "airllm_rs.json"
"""What a shard store has when it is complete."""
STRIPE = "airllm_rs.stripe.json"
"""What says, in the other directories of a striped store, which store they belong to."""
RECORDS = ".airllm_rs-progress"
"""The directory that says which files of a store are finished; gone when all are."""
HEAD = "lm_head.weight"
SAFETENSORS_INDEX = "model.safetensors.index.json"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def open_checkpoint(
    path_or_id: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    conversion_dir: str | PathLike[str] | None = None,
    check: Callable[[Mapping[str, object]], object] | None = None,
    prepared: Callable[[Path], Path | None] | None = None,
    progress: Progress | None = None,
) -> ModelFiles:
    """Find, download or convert a checkpoint, and parse its headers. No weight is read.

    Args:
        path_or_id: A directory, a ``.safetensors`` or ``.gguf`` file, or a hub id.
        revision: Branch, tag or commit of a hub id.
        cache_dir: Where the hub's files are cached; its own default if None.
        local_files_only: Download nothing.
        token: For private repositories of the hub.
        conversion_dir: Where converted checkpoints go; our cache directory if None.
        check: Called with the contents of config.json before anything large is downloaded or
            converted; it raises what it does not like.
        prepared: Called with the directory that has config.json before weights are looked for, or
            downloaded; it returns a directory that was made of this checkpoint and that is opened
            instead, or None.
        progress: Where downloads and conversions are shown.

    Raises:
        CheckpointError: if there is nothing of that name, or it is no checkpoint.
        NotEnoughSpaceException: if a download or conversion would not fit on the disk.
        MissingDependencyError: if a GGUF file needs a package that is not installed.
        OSError: if a file cannot be read.
    """
    progress = progress or NoProgress()
    prepared = cache(prepared) if prepared is not None else None
    path = local(path_or_id)
    if path is None:
        from airllm_rs.checkpoint import hub

        path = hub.download(
            fspath(path_or_id),
            revision=revision,
            cache_dir=Path(cache_dir) if cache_dir is not None else None,
            local_files_only=local_files_only,
            token=token,
            check=check,
            has_weights=None if prepared is None else lambda found: prepared(found) is not None,
            progress=progress,
        )
    if path.suffix == ".gguf":
        target = Path(conversion_dir) if conversion_dir is not None else None
        directory, tensors = open_gguf(path, cache_dir=target, check=check)
        config = _configuration(directory, check)
        opened = _model_files(directory, config, tensors, tensors.weights)
        return replace(opened, converts_tokenizer=tensors.has_tokenizer)
    _refuse_part(path)
    directory = configuration_of(path) if path.is_dir() else path.parent
    instead = prepared(directory) if prepared is not None and path.is_dir() else None
    if instead is not None:
        path = instead
        if (path / "config.json").exists():
            directory = path
    config = _configuration(directory, check)
    core = _open_weights(path, conversion_dir, progress)
    packed = packed_weights(core, config)
    if HEAD in packed:  # of a tied model, whose table is not packed
        config["tie_word_embeddings"] = False
    return _model_files(directory, config, core, packed)


def _configuration(
    directory: Path, check: Callable[[Mapping[str, object]], object] | None
) -> dict[str, object]:
    config = read_json(directory / "config.json", f"{directory} has no config.json")
    if check is not None:
        check(config)
    return config


def _model_files(
    directory: Path,
    config: Mapping[str, object],
    core: TensorTable,
    packed: Mapping[str, StoredWeight],
) -> ModelFiles:
    generation = directory / "generation_config.json"
    return ModelFiles(
        path=directory,
        config=config,
        generation_config=read_json(generation) if generation.exists() else {},
        core=core,
        packed=packed,
    )


def local(path_or_id: str | PathLike[str]) -> Path | None:
    """Return the path that the user means, None for a hub id."""
    text = fspath(path_or_id)
    path = Path(text).expanduser()
    if path.exists():
        is_weights = path.is_file() and path.suffix in (".safetensors", ".gguf")
        if not path.is_dir() and not is_weights:
            raise CheckpointError(f"{path} is neither a directory nor a .safetensors or .gguf file")
        return path
    is_path = isinstance(path_or_id, PathLike) or text.startswith((".", "/", "~"))
    if is_path or path.suffix in (".safetensors", ".gguf") or not _HUB_ID.fullmatch(text):
        raise CheckpointError(f"{text}: no such file or directory")
    return None


def _refuse_part(path: Path) -> None:
    """Raise for a directory that has a part of a striped store, but not its manifest."""
    if (path / STRIPE).exists() and not (path / MANIFEST).exists():
        store = read_json(path / STRIPE).get("store", "another directory")
        raise CheckpointError(f"{path} holds a part of the store {store}: name that instead")


def _open_weights(
    path: Path, conversion_dir: str | PathLike[str] | None, progress: Progress
) -> _core.Checkpoint:
    if path.is_file():
        return _core.Checkpoint.open(path)
    if is_split(path):
        return open_split(path)
    if (path / MANIFEST).exists():
        return _core.Checkpoint.open(path)
    if (path / RECORDS).exists():
        raise CheckpointError(
            f"{path} is a shard store that is not finished: make it again, which goes on from there"
        )
    if (path / SAFETENSORS_INDEX).exists() or (path / "model.safetensors").exists():
        return _core.Checkpoint.open(path)
    others = sorted(path.glob("*.safetensors"))
    if len(others) == 1:
        return _core.Checkpoint.open(others[0])
    from airllm_rs.checkpoint import torch_files

    if torch_files.sources(path):
        target = Path(conversion_dir) if conversion_dir is not None else None
        return _core.Checkpoint.open(torch_files.convert(path, target, progress=progress))
    raise CheckpointError(
        f"{path} has no model.safetensors, no {SAFETENSORS_INDEX} and no pytorch_model.bin"
    )
