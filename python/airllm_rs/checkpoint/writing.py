"""Checkpoints written the way Hugging Face ships them, block by block.

The safetensors package writes a file from tensors that all lie in memory; these files are as large
as memory.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from airllm_rs.checkpoint.durable import sync_directory, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

INDEX = "model.safetensors.index.json"

ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
"""What is written here, by safetensors' codes."""

FILE_BYTES = 3 << 29
"""Where a file ends and the next begins; a tensor larger than this is a file of its own."""


class PlannedTensor(NamedTuple):
    """A tensor that will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of a checkpoint that will be written."""

    name: str
    tensors: tuple[PlannedTensor, ...]

    @property
    def nbytes(self) -> int:
        """The bytes of its data, without the header."""
        return sum(tensor.nbytes for tensor in self.tensors)


def plan_files(
    tensors: Iterable[PlannedTensor], file_bytes: int = FILE_BYTES
) -> tuple[PlannedFile, ...]:
    """Divide tensors into files named ``model-00001-of-0000N.safetensors``.

    Within a file they are sorted by name, as the safetensors package does.
    """
    groups: list[list[PlannedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.nbytes > file_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    return tuple(
        PlannedFile(f"model-{n:05d}-of-{len(groups):05d}.safetensors", tuple(sorted(group)))
        for n, group in enumerate(groups, 1)
    )


def write_file(
    directory: Path,
    planned: PlannedFile,
    content: Callable[[PlannedTensor], Iterable[memoryview]],
    advance: Callable[[int], object],
) -> None:
    """Write one file; it is whole and on the disk, or absent.

    Args:
        directory: Where it goes.
        planned: Its name and tensors.
        content: Returns the bytes of a tensor, in blocks of any size.
        advance: Told how many bytes were written, block by block.
    """
    path = directory / planned.name
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(_header(planned.tensors))
        for tensor in planned.tensors:
            written = 0
            for block in content(tensor):
                file.write(block)
                written += block.nbytes
                advance(block.nbytes)
            assert written == tensor.nbytes, f"{tensor}: {written} bytes"
        file.flush()
        os.fsync(file.fileno())
        if sys.platform == "linux":  # what is read next is read past the page cache
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    temporary.replace(path)
    sync_directory(directory)


def write_index(directory: Path, files: Sequence[PlannedFile]) -> None:
    """Write the index that says which file a tensor is in; it makes a checkpoint of the files."""
    weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
    total = sum(file.nbytes for file in files)
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / INDEX, content, indent=2)
    sync_directory(directory)


def _header(tensors: Sequence[PlannedTensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (offset, offset + tensor.nbytes),
        }
        offset += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
