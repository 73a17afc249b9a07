"""How a weight is stored: one tensor of plain numbers, or packed in several parts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from airllm_rs.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Q = "q"
"""The part with the numbers, of every layout."""


class TensorInfo(NamedTuple):
    """A tensor of a checkpoint: what it is and where its bytes are."""

    dtype: str
    """safetensors' code, such as ``BF16``."""
    shape: tuple[int, ...]
    file: int
    """Index into `ModelFiles.files`."""
    offset: int
    """From the start of the file."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How the bytes of a packed weight become numbers, in the words of ``_core.Layout``."""

    kind: str
    """``lut4``, ``int8``, ``fp8``, ``affine``, ``table8`` or ``ggml``."""
    options: object
    name: str = ""
    """What people call it, such as ``4bit`` or ``Q4_K``."""

    def to_json(self) -> str:
        """Return the description that ``_core.Layout`` is made of."""
        return json.dumps({"kind": self.kind, "options": self.options})


class Repacking(NamedTuple):
    """What makes a part that is packed across rows one that kernels read, without loss."""

    kind: str
    """As ``_core.repack`` names it."""
    cols: int
    """Of the result: those of the weight, or its groups."""
    bits: int
    """Of each packed integer."""
    item_bits: int
    """Of each item of the result."""

    def nbytes(self, rows: int) -> int:
        """Return the bytes of so many rows of the result."""
        return rows * self.cols * self.item_bits // 8


class StoredPart(NamedTuple):
    """One tensor of a packed weight."""

    role: str
    """The keyword of ``_core.Weight`` that takes it."""
    tensor: str
    info: TensorInfo
    """The shape may be another than in the file, of the same bytes."""
    rows: int = 1
    """Rows of the weight behind each step along its first dimension; 0 if all rows need all."""
    repacking: Repacking | None = None
    """None if kernels read it as it lies."""


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight of a model, and the tensors of the checkpoint that it is stored in."""

    name: str
    shape: tuple[int, ...]
    """Of the weight, whatever its parts look like."""
    parts: tuple[StoredPart, ...]
    layout: Layout | None = None
    """None for plain numbers."""
    row_step: int = 1
    """Blocks of its rows begin at multiples of this; 0 if it cannot be cut."""
    constants: Mapping[str, bytes] = field(default_factory=dict)
    """Parts that are no tensors of the checkpoint, by role."""
    interleaved: int = 0
    """Rows of a head whose two halves alternate (row 2i is of the first); 0 for rows in order."""
    shift: float = 0.0
    """What has to be added to the numbers of a vector, in float32: GGUF's norms of Gemma."""
    aside: tuple[str, ...] = ()
    """Tensors that belong to it and that nothing reads when it is used."""

    @property
    def nbytes(self) -> int:
        """The bytes of all its parts."""
        return sum(part.info.nbytes for part in self.parts)

    @property
    def dtype(self) -> str:
        """Safetensors' code, or what people call the layout."""
        if self.layout is None:
            return self.parts[0].info.dtype
        return self.layout.name or self.layout.kind


def whole_name(name: str) -> str:
    """Return ``down_proj`` for ``down_proj[3]``, which is one expert of it; others as they are."""
    return name.partition("[")[0]


def one_of_those(name: str, find: Callable[[str], StoredWeight]) -> StoredWeight:
    """Return the weight ``name``; of ``down_proj[3]``, what lies at 3 in ``down_proj``.

    Args:
        name: The weight.
        find: Returns weights that are a tensor each.
    """
    whole = whole_name(name)
    if whole == name:
        return find(name)
    return _one_of(find(whole), int(name[len(whole) + 1 : -1]))


def _one_of(stored: StoredWeight, index: int) -> StoredWeight:
    """Return what lies at ``index`` of the first dimension of a weight, such as one expert.

    Raises:
        IndexError: if there is nothing.
    """
    count = stored.shape[0]
    if not 0 <= index < count:
        raise IndexError(f"{stored.name} holds {count}, there is no [{index}]")
    parts = []
    for part in stored.parts:
        info = part.info
        if info.nbytes % count or part.repacking is not None:
            raise UnsupportedModelError(
                f"{stored.name} is packed as {stored.dtype}, and cannot be taken apart"
            )
        nbytes = info.nbytes // count
        shape = (
            info.shape[1:] if info.shape[0] == count else (info.shape[0] // count, *info.shape[1:])
        )
        parts.append(
            part._replace(
                info=info._replace(shape=shape, offset=info.offset + index * nbytes, nbytes=nbytes)
            )
        )
    return replace(
        stored, name=f"{stored.name}[{index}]", shape=stored.shape[1:], parts=tuple(parts)
    )


def plain(name: str, info: TensorInfo) -> StoredWeight:
    """Return the weight that is one tensor of numbers."""
    return StoredWeight(name, info.shape, (StoredPart(Q, name, info),))


def main_dtype(tensors: Iterable[TensorInfo], default: str = "F32") -> str:
    """Return the dtype that most bytes of ``tensors`` have."""
    totals: dict[str, int] = {}
    for info in tensors:
        totals[info.dtype] = totals.get(info.dtype, 0) + info.nbytes
    return max(totals, key=lambda dtype: totals[dtype], default=default)
