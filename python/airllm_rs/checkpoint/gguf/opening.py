"""A GGUF model opened in place: what is made of it once, and kept, is small."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.converted import (
    convert_once,
    converted_directory,
    is_converted,
    source_identity,
)
from airllm_rs.checkpoint.durable import write_json
from airllm_rs.checkpoint.gguf.parts import find_parts
from airllm_rs.checkpoint.gguf.tensors import INDEX, entries_of, read_tensors, write_tensors
from airllm_rs.errors import CheckpointError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from airllm_rs.checkpoint.gguf.config import Description
    from airllm_rs.checkpoint.gguf.tensors import GgufTensors

log = logging.getLogger(__name__)

# Part of the directory's name: a change of what is written makes a new one.
_FORMAT = "gguf-2"


def open_gguf(
    path: Path,
    *,
    cache_dir: Path | None = None,
    check: Callable[[Mapping[str, object]], object] | None = None,
) -> tuple[Path, GgufTensors]:
    """Return a directory with the configuration, and the tensors in the file itself.

    The directory is made of the file's metadata when it is first opened; it is complete or absent.

    Args:
        path: The GGUF file, or any part of a model that is split into several.
        cache_dir: Where such directories go; in our cache directory if None.
        check: Called with the contents of config.json before anything is written; it raises what
            it does not like.

    Raises:
        MissingDependencyError: if the gguf package is not installed.
        CheckpointError: if the file is truncated, corrupt or contradicts itself, or a part of the
            model is missing.
        UnsupportedModelError: if it holds what this package does not run.
        OSError: if the file cannot be read.
    """
    parts = find_parts(path)
    directory = converted_directory(f"{parts[0].resolve().stem}-{_FORMAT}", parts, cache_dir)
    if not is_converted(directory, INDEX):
        found = read_model(parts)
        if check is not None:
            check(found.description.config)
        convert_once(directory, lambda partial: _write(found, partial), parts, marker=INDEX)
    return directory, read_tensors(directory, parts)


@dataclass(frozen=True)
class GgufModel:
    """What the headers of a model say, where nothing speaks against it."""

    parts: tuple[Path, ...]
    identity: str
    description: Description
    entries: list[list[object]]
    has_tokenizer: bool


def read_model(parts: tuple[Path, ...]) -> GgufModel:
    """Return what the headers of a model say; raises what `open_gguf` does."""
    try:
        # the package is optional, and slow to import
        from airllm_rs.checkpoint.gguf.source import read_floats, read_source
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise MissingDependencyError(
            f"{parts[0]}: GGUF files need the gguf package: pip install 'airllm_rs[gguf]'"
        ) from error
    from airllm_rs.checkpoint.gguf.config import describe
    from airllm_rs.checkpoint.gguf.tokenizer import has_tokenizer

    identity = source_identity(parts)
    source = read_source(parts)

    def vector(name: str) -> npt.NDArray[np.float32] | None:
        tensor = source.tensors.get(name)
        return None if tensor is None else read_floats(parts, tensor)

    description = describe(source, vector)
    entries = entries_of(source.path, description.tensors, description.head_dim)
    return GgufModel(parts, identity, description, entries, has_tokenizer(source))


def _write(found: GgufModel, directory: Path) -> None:
    path = found.parts[0]
    try:
        if not found.has_tokenizer:
            log.info("%s has no tokenizer: only token ids can be given to the model", path)
        description = found.description
        write_json(directory / "config.json", description.config, indent=2)
        write_json(directory / "generation_config.json", description.generation_config, indent=2)
        write_tensors(directory, found.entries, has_tokenizer=found.has_tokenizer)
        if source_identity(found.parts) != found.identity:
            raise CheckpointError(f"{path} changed while it was opened")
    except BaseException:
        shutil.rmtree(directory)  # it is made in a moment: nothing is worth going on from
        raise
