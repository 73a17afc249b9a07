"""Units: what is read, leased and released, cut from the tensors of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, Protocol

from airllm_rs.families.family import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airllm_rs.checkpoint import TensorInfo
    from airllm_rs.families.family import Layer, TensorSpec

MIB = 1 << 20
PAGE = 4096
"""Slots begin at its multiples, and reads are widened to at most its multiples."""

# Products run at full speed on blocks of this many rows, and such blocks of common shapes adjoin.
_ROWS_STEP = 64


class Tensors(Protocol):
    """Where the tensors of a checkpoint lie; what `open_checkpoint` returns is one."""

    def tensor(self, name: str) -> TensorInfo:
        """Return dtype, shape and place of a tensor."""


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """Sizes that decide how tensors become units. Tests lower them so that tiny models stream."""

    max_unit_bytes: int = 64 * MIB
    """A larger matrix is several units, blocks of its rows."""
    group_bytes: int = 8 * MIB
    """Small matrices used one after another share a unit of up to this size."""
    resident_below: int = 64 << 10
    """A smaller tensor is always resident, and so is one of a single dimension."""
    ring_bytes: int = 192 * MIB
    """More ring than this does not keep a disk busier."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise ValueError(f"PlanLimits.{name} is negative")


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [row_start, row_stop) of a tensor, and where their bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Of the piece, not of the tensor."""
    row_start: int
    row_stop: int
    file: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What is read at once: a matrix, a block of its rows, or some small tensors."""

    index: int
    layer: int
    """Index into the layers of the family."""
    name: str
    pieces: tuple[Piece, ...]
    nbytes: int
    """Bytes that it takes in memory, what is read beyond its ends included."""


@dataclass(frozen=True)
class UnitTable:
    """All units of a model, and the part that each plays. Tuples hold unit indexes."""

    units: tuple[Unit, ...]
    always: tuple[int, ...]
    """Small tensors, always resident."""
    decoder: tuple[int, ...]
    """Matrices of the decoder layers, in order of use."""
    head: tuple[int, ...]
    embedding: tuple[int, ...]
    """The table, where it is not the head too."""
    tied: bool
    largest_group: int
    """Bytes of the largest unit of several matrices, 0 without one."""

    @property
    def order(self) -> tuple[int, ...]:
        """The matrices of one sweep, in order of use."""
        return (*self.decoder, *self.head)

    def nbytes(self, indexes: Iterable[int]) -> int:
        """Return what the units take in memory together."""
        return sum(self.units[index].nbytes for index in indexes)

    def by_layer(self, indexes: Iterable[int]) -> Iterator[list[int]]:
        """Yield the units of one layer after the other."""
        for _, group in groupby(indexes, key=lambda index: self.units[index].layer):
            yield list(group)


def build_units(
    layers: Sequence[Layer], files: Tensors, limits: PlanLimits, *, tied: bool
) -> UnitTable:
    """Cut the tensors of ``layers`` into units.

    Row blocks depend on ``max_unit_bytes`` alone, so that products are the same whatever is
    resident and however units are grouped.
    """
    builder = _Builder(files, limits)
    for number, layer in enumerate(layers):
        if layer.kind == "embedding" and tied:
            continue  # its units are the head's
        builder.add_small(number, layer)
    always = tuple(range(len(builder.units)))
    parts: dict[str, tuple[int, ...]] = {"embedding": (), "decoder": (), "norm": (), "head": ()}
    for number, layer in enumerate(layers):
        if layer.kind == "embedding" and tied:
            continue
        first = len(builder.units)
        builder.add_matrices(number, layer)
        parts[layer.kind] += tuple(range(first, len(builder.units)))
    units = tuple(builder.units)
    groups = [unit.nbytes for unit in units[len(always) :] if len(unit.pieces) > 1]
    return UnitTable(
        units,
        always,
        decoder=parts["decoder"],
        head=parts["head"],
        embedding=parts["embedding"],
        tied=tied,
        largest_group=max(groups, default=0),
    )


class _Builder:
    """Collects units and numbers them."""

    def __init__(self, files: Tensors, limits: PlanLimits) -> None:
        self.units: list[Unit] = []
        self._files = files
        self._limits = limits

    def add_small(self, number: int, layer: Layer) -> None:
        """Add one unit with all tensors of the layer that are always resident."""
        small = [spec for spec in layer.tensors if self._is_small(spec)]
        if small:
            pieces = [self._whole(spec) for spec in small]
            self._add(number, f"{layer.name} (small tensors)", pieces)

    def add_matrices(self, number: int, layer: Layer) -> None:
        """Add the matrices of a layer in order of use, in blocks if large, in groups if small."""
        group: list[Piece] = []
        for spec in layer.tensors:
            if self._is_small(spec):
                continue
            whole = self._whole(spec)
            most = self._limits.group_bytes
            is_large = slot_bytes([whole]) > most or whole.nbytes > self._limits.max_unit_bytes
            if group and (is_large or slot_bytes([*group, whole]) > most):
                self._add_group(number, group)
                group = []
            if is_large:
                for block in self._blocks(whole):
                    self._add_group(number, [block])
            else:
                group.append(whole)
        if group:
            self._add_group(number, group)

    def _is_small(self, spec: TensorSpec) -> bool:
        nbytes = self._files.tensor(spec.name).nbytes
        # a table is looked up by rows; it is a matrix however small it is
        is_table = spec.name == EMBEDDING
        return not is_table and (len(spec.shape) < 2 or nbytes < self._limits.resident_below)

    def _whole(self, spec: TensorSpec) -> Piece:
        info = self._files.tensor(spec.name)
        return Piece(
            spec.name, info.dtype, spec.shape, 0, spec.shape[0], info.file, info.offset, info.nbytes
        )

    def _blocks(self, whole: Piece) -> list[Piece]:
        rows = whole.shape[0]
        row_bytes = whole.nbytes // rows
        step = rows_per_block(rows, row_bytes, self._limits.max_unit_bytes)
        return [
            Piece(
                whole.name,
                whole.dtype,
                (min(start + step, rows) - start, *whole.shape[1:]),
                start,
                min(start + step, rows),
                whole.file,
                whole.offset + start * row_bytes,
                (min(start + step, rows) - start) * row_bytes,
            )
            for start in range(0, rows, step)
        ]

    def _add_group(self, number: int, pieces: list[Piece]) -> None:
        first = pieces[0]
        name = first.name
        if len(pieces) > 1:
            name += "".join(f" + {piece.name.split('.')[-2]}" for piece in pieces[1:])
        elif first.row_start or first.nbytes < self._files.tensor(name).nbytes:
            name += f"[{first.row_start}:{first.row_stop}]"
        self._add(number, name, pieces)

    def _add(self, number: int, name: str, pieces: list[Piece]) -> None:
        self.units.append(Unit(len(self.units), number, name, tuple(pieces), slot_bytes(pieces)))


def rows_per_block(rows: int, row_bytes: int, max_bytes: int) -> int:
    """Return how many rows of a matrix make a block, so that blocks are of about equal size."""
    most = max(max_bytes // row_bytes, 1)
    if most >= rows:
        return rows
    step = _ROWS_STEP if most >= _ROWS_STEP else 1
    most -= most % step
    blocks = -(-rows // most)
    even = -(-rows // blocks)
    return min(even + -even % step, most)


def slot_bytes(pieces: Sequence[Piece]) -> int:
    """Return an upper bound of what a slot for ``pieces`` takes.

    Reads begin and end at multiples of `PAGE` at worst. A piece that does not begin at a multiple
    of its item size is moved after arrival, for which a page is set aside.
    """
    total = 0
    for piece in pieces:
        start = piece.offset - piece.offset % PAGE
        stop = piece.offset + piece.nbytes
        total += stop + -stop % PAGE - start
        if piece.offset % max(piece.nbytes // max(prod(piece.shape), 1), 1):
            total += PAGE
    return total
