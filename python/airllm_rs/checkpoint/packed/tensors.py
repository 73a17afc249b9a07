"""What the finders of packed weights look at: names, shapes, and the bytes of small tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.stored import TensorInfo
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from airllm_rs import _core

# Constants of a format, not weights.
_MOST_BYTES = 1 << 20


class Tensors:
    """The tensors of a checkpoint by name."""

    def __init__(self, core: _core.Checkpoint) -> None:
        self._core = core
        self.names = core.names()
        self._files = core.files

    def __contains__(self, name: str) -> bool:
        return name in self._core

    def info(self, name: str) -> TensorInfo:
        """Return what a tensor is and where it lies."""
        return TensorInfo(*self._core.tensor(name))

    def part(self, weight: str, suffix: str) -> TensorInfo:
        """Return the tensor that a weight needs beside its numbers.

        Raises:
            CheckpointError: if there is none.
        """
        name = weight + suffix
        if name not in self:
            raise CheckpointError(f"{weight} is packed, and lacks {name}")
        return self.info(name)

    def content(self, name: str) -> bytes:
        """Read a small tensor.

        Raises:
            CheckpointError: if it is not small, or its file ends within it.
            OSError: if it cannot be read.
        """
        info = self.info(name)
        path = self._files[info.file]
        if info.nbytes > _MOST_BYTES:
            raise CheckpointError(f"{name} has {info.nbytes} bytes, expected a small tensor")
        with Path(path).open("rb") as file:
            file.seek(info.offset)
            content = file.read(info.nbytes)
        if len(content) != info.nbytes:
            raise CheckpointError(f"{path} ends within {name}")
        return content


def require_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse a part of the wrong shape.

    Raises:
        CheckpointError: naming it and both shapes.
    """
    if found != expected:
        raise CheckpointError(f"{name} has shape {list(found)}, expected {list(expected)}")
