"""From what the user names to the files of a model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.checkpoint.gguf import open_gguf
from airllm_rs.checkpoint.hub_gguf import parse_hub_id
from airllm_rs.checkpoint.model_files import ModelFiles, assemble, read_json
from airllm_rs.checkpoint.packed import packed_weights
from airllm_rs.checkpoint.safetensors_files import (
    MANIFEST,
    SAFETENSORS_INDEX,
    STRIPE,
    open_safetensors,
)
from airllm_rs.checkpoint.splits import configuration_of
from airllm_rs.errors import CheckpointError
from airllm_rs.stats.progress import NoProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airllm_rs.stats.progress import Progress


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
    headers_only: bool = False,
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
        headers_only: Of a hub id, fetch no weights that are not here, but the headers of their
            files.
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
        # a third of a second that local checkpoints need not spend
        from airllm_rs.checkpoint.fetching import HubRequest, fetch, look

        parsed = parse_hub_id(fspath(path_or_id))
        assert parsed is not None, "what is no path is a hub id"
        request = HubRequest(
            *parsed,
            revision=revision,
            cache_dir=Path(cache_dir) if cache_dir is not None else None,
            local_files_only=local_files_only,
            token=token,
        )
        found = look(request, check, prepared) if headers_only else None
        if isinstance(found, ModelFiles):
            return found
        path = found or fetch(request, check, prepared, progress)
    if path.suffix == ".gguf":
        target = Path(conversion_dir) if conversion_dir is not None else None
        directory, tensors = open_gguf(path, cache_dir=target, check=check)
        config = _configuration(directory, check)
        opened = assemble(directory, config, tensors, tensors.weights)
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
    return assemble(directory, config, core, packed_weights(core, config))


def _configuration(
    directory: Path, check: Callable[[Mapping[str, object]], object] | None
) -> dict[str, object]:
    config = read_json(directory / "config.json", f"{directory} has no config.json")
    if check is not None:
        check(config)
    return config


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
    if is_path or path.suffix in (".safetensors", ".gguf") or parse_hub_id(text) is None:
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
    opened = open_safetensors(path)
    if opened is not None:
        return opened
    from airllm_rs.checkpoint import torch_files

    if torch_files.sources(path):
        target = Path(conversion_dir) if conversion_dir is not None else None
        return _core.Checkpoint.open(torch_files.convert(path, target, progress=progress))
    raise CheckpointError(
        f"{path} has no model.safetensors, no {SAFETENSORS_INDEX} and no pytorch_model.bin"
    )
