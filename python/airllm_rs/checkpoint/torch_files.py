"""Checkpoints in torch's own format, converted to safetensors once and piece by piece."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.converted import (
    SPACE_REMEDY,
    convert_once,
    converted_directory,
    is_converted,
)
from airllm_rs.checkpoint.disk_space import require_space
from airllm_rs.checkpoint.durable import sync_directory, write_json
from airllm_rs.checkpoint.model_files import read_json
from airllm_rs.checkpoint.writing import INDEX as SAFETENSORS_INDEX
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    from airllm_rs.stats.progress import Progress, Task

INDEX = "pytorch_model.bin.index.json"

# The writer copies what it writes: so much memory a conversion takes, however large a file is.
_FILE_BYTES = 256 << 20


def sources(directory: Path) -> list[Path]:
    """Return the files of torch's format that make up the checkpoint in ``directory``.

    Raises:
        CheckpointError: if the index names a file that is not there.
    """
    index = directory / INDEX
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{index} has no weight_map")
        files = [directory / str(name) for name in sorted(set(weight_map.values()))]
        for path in files:
            if path.parent != directory or not path.exists():
                raise CheckpointError(f"{index} names {path.name}, which is not there")
        return files
    return [path for path in (directory / "pytorch_model.bin",) if path.exists()]


def conversion(directory: Path, target: Path | None = None) -> Path:
    """Return where `convert` puts what it makes of ``directory``."""
    return converted_directory(directory.resolve().name, sources(directory), target)


def convert(directory: Path, target: Path | None = None, *, progress: Progress) -> Path:
    """Return a directory with the same tensors as safetensors, made if it does not exist.

    Each source file is recorded when its tensors are safely on the disk: what was interrupted goes
    on from there, and a result is complete or absent.

    Args:
        directory: Has the files in torch's format; it is not written to.
        target: Where the converted directory goes; our cache directory if None.
        progress: Shows how far the conversion is.

    Raises:
        CheckpointError: if a file is broken, or holds what only executing code could load.
        NotEnoughSpaceException: if the result would not fit on the disk.
    """
    files, result = sources(directory), conversion(directory, target)
    if not is_converted(result):
        convert_once(result, lambda partial: _convert(directory, files, partial, progress))
    return result


def _convert(directory: Path, files: list[Path], partial: Path, progress: Progress) -> None:
    records = [partial / f"{path.name}.json" for path in files]
    left = [i for i, record in enumerate(records) if not record.exists()]
    require_space(
        partial,
        sum(files[i].stat().st_size for i in left),
        f"converting {directory} to safetensors",
        SPACE_REMEDY,
    )
    total = sum(path.stat().st_size for path in files)
    with progress.task(f"converting {directory.name}", total) as task:
        task.update(total - sum(files[i].stat().st_size for i in left))
        for i in left:
            weight_map = _convert_file(files[i], f"model-{i + 1:05d}", partial, task)
            write_json(records[i], weight_map)
    weight_map = {}
    for record in records:
        weight_map.update(read_json(record))
    write_json(partial / SAFETENSORS_INDEX, {"metadata": {}, "weight_map": weight_map})
    for record in records:
        record.unlink()


def _convert_file(path: Path, stem: str, directory: Path, task: Task) -> dict[str, object]:
    """Write the tensors of one file and return which file each went to."""
    from safetensors.torch import save_file

    weight_map: dict[str, object] = {}
    tensors = _load(path)
    for number, names in enumerate(_groups(tensors), 1):
        name = f"{stem}-{number:05d}.safetensors"
        temporary = directory / f"{name}.tmp"
        # copies: tensors may share memory, which the format does not allow
        group = {key: tensors[key].detach().contiguous().clone() for key in names}
        save_file(group, temporary, metadata={"format": "pt"})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(directory / name)
        task.advance(sum(tensor.nbytes for tensor in group.values()))
        weight_map.update(dict.fromkeys(names, name))
    sync_directory(directory)
    return weight_map


def _groups(tensors: dict[str, Tensor]) -> Iterable[list[str]]:
    group: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if group and size + tensor.nbytes > _FILE_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += tensor.nbytes
    if group:
        yield group


def _load(path: Path) -> dict[str, Tensor]:
    import torch

    with _one_line_errors(path):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            # files of torch before 1.6 cannot be mapped
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, expected tensors by name")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{path}: {name!r} is no tensor")
    return loaded


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    import pickle

    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, and its code is never executed: {_first(error)}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is broken: {_first(error)}") from error


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
