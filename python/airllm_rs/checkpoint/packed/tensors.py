"""What the finders of packed weights look at: names, shapes, and the bytes of small tensors."""

from __future__ import annotations

import json
from math import gcd, lcm, prod
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.stored import TensorInfo
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airllm_rs.checkpoint.stored import StoredPart
    from airllm_rs.checkpoint.tensor_table import TensorTable

# Constants of a format, not weights.
_MOST_BYTES = 1 << 20


class Tensors:
    """The tensors of a checkpoint by name."""

    def __init__(
        self, core: TensorTable, read: Callable[[str, TensorInfo], bytes] | None = None
    ) -> None:
        self.names = core.names()
        # a call of the extension for each question would take seconds of a large model
        self._infos = {name: TensorInfo(*core.tensor(name)) for name in self.names}
        self._files = core.files
        self._read = read

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def info(self, name: str) -> TensorInfo:
        """Return what a tensor is and where it lies."""
        return self._infos[name]

    def part(self, weight: str, suffix: str) -> TensorInfo:
        """Return the tensor that a weight needs beside its numbers.

        Raises:
            CheckpointError: if there is none.
        """
        name = weight + suffix
        if name not in self:
            raise CheckpointError(f"{weight} is packed, and lacks {name}")
        return self.info(name)

    def found(self, *names: str) -> tuple[str, ...]:
        """Return those of ``names`` that there are."""
        return tuple(name for name in names if name in self._infos)

    def holds_only_zeros(self, name: str) -> bool:
        """Tell whether all bytes of a small tensor are zero.

        Raises:
            CheckpointError: if it is not small, or its file ends within it.
            OSError: if it cannot be read.
        """
        return not any(self.content(name))

    def state(self, name: str) -> dict[str, object]:
        """Read a small tensor whose bytes are a JSON object.

        Raises:
            CheckpointError: if they are none.
            OSError: if it cannot be read.
        """
        try:
            content = json.loads(self.content(name))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{name} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{name} is no JSON object")
        return content

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
        if self._read is not None:
            return self._read(name, info)
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


def require_dtype(name: str, found: str, *expected: str) -> None:
    """Refuse a part of the wrong dtype.

    Raises:
        CheckpointError: naming it and what it may be.
    """
    if found not in expected:
        raise CheckpointError(f"{name} is of {found}, expected {' or '.join(expected)}")


def along(
    name: str, info: TensorInfo, shape: tuple[int, int], weights: int
) -> tuple[TensorInfo, int]:
    """Return a flat tensor seen by rows of a weight, and how many of them are behind each step.

    Args:
        name: Of the tensor.
        info: It has one item per ``weights`` of the flattened weight.
        shape: Of the weight, (rows, columns).
        weights: Such as the block size.

    Returns:
        0 for the rows where the weight cannot be cut.

    Raises:
        CheckpointError: if it has more items or fewer.
    """
    rows, cols = shape
    needed = -(-rows * cols // weights)
    if prod(info.shape) != needed:
        raise CheckpointError(
            f"{name} has shape {list(info.shape)}, expected {needed} items: "
            f"one for {weights} of {list(shape)} weights"
        )
    step = weights // gcd(weights, cols)
    if rows % step:
        return info, 0
    return info._replace(shape=(rows // step, step * cols // weights)), step


def common_step(parts: Iterable[StoredPart]) -> int:
    """Return what rows must be cut at multiples of; 0 if a part belongs to all of them."""
    return lcm(*(part.rows for part in parts))


def require_divisible(name: str, shape: Sequence[int], groups: int) -> int:
    """Return how many columns of a weight share a scale.

    Raises:
        CheckpointError: if they do not divide.
    """
    cols = shape[-1]
    if groups < 1 or cols % groups:
        raise CheckpointError(f"{name}: {cols} columns do not divide into {groups} groups")
    return cols // groups
