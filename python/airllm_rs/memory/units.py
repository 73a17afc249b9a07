"""Units: what is read, leased and released, cut from the tensors of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import lcm, prod
from typing import TYPE_CHECKING, Protocol

from airllm_rs.checkpoint.stored import Q
from airllm_rs.memory.arithmetic import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airllm_rs.checkpoint import StoredPart, StoredWeight
    from airllm_rs.families.family import Layer, TensorSpec

MIB = 1 << 20
PAGE = 4096
"""Slots begin at its multiples, and reads are widened to at most its multiples."""

# Products run at full speed on blocks of this many rows, and such blocks of common shapes adjoin.
_ROWS_STEP = 64


class Tensors(Protocol):
    """Where the tensors of a checkpoint lie; what `open_checkpoint` returns is one."""

    def stored(self, name: str) -> StoredWeight:
        """Return shape and parts of a weight, and where they lie."""


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
    """What a tensor holds of the rows [row_start, row_stop) of a weight, and where it is."""

    name: str
    """Of the tensor."""
    dtype: str
    shape: tuple[int, ...]
    """Of the piece, not of the tensor."""
    row_start: int
    """Rows are the weight's, which a part of a packed weight may have fewer of."""
    row_stop: int
    file: int
    offset: int
    nbytes: int
    weight: str
    """The name of the weight, which is the tensor's where it is stored as plain numbers."""
    role: str
    """Which part of the weight it is."""
    repacked_nbytes: int = 0
    """What it takes once kernels can read it; 0 where they read it as it lies."""

    @property
    def is_plain(self) -> bool:
        """Whether it is numbers as they are, not a part of a packed weight."""
        return self.name == self.weight and self.role == Q and self.dtype in ITEM_BYTES


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

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that it holds something of, in order of use."""
        return tuple(dict.fromkeys(piece.weight for piece in self.pieces))


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
    layers: tuple[Layer, ...]
    """What the units were cut from, in order of use."""

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
    (table,) = layers[0].tensors
    builder = _Builder(files, limits, table.name)
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
        # what is no decoder layer, but read in a sweep as if it were one
        kind = "decoder" if layer.kind == "other" else layer.kind
        parts[kind] += tuple(range(first, len(builder.units)))
    units = tuple(builder.units)
    groups = [unit.nbytes for unit in units[len(always) :] if len(unit.weights) > 1]
    return UnitTable(
        units,
        always,
        decoder=parts["decoder"],
        head=parts["head"],
        embedding=parts["embedding"],
        tied=tied,
        largest_group=max(groups, default=0),
        layers=tuple(layers),
    )


class _Builder:
    """Collects units and numbers them."""

    def __init__(self, files: Tensors, limits: PlanLimits, table: str) -> None:
        self.units: list[Unit] = []
        self._table = table
        self._files = files
        self._limits = limits
        self._seen: dict[str, tuple[StoredWeight, list[StoredPart]]] = {}

    def add_small(self, number: int, layer: Layer) -> None:
        """Add one unit with all that the layer always has in memory."""
        kept = [spec for spec in layer.tensors if spec.placement != "gathered"]
        small = [piece for spec in kept for piece in self._small_pieces(spec)]
        if small:
            self._add(number, f"{layer.name} (small tensors)", small)

    def add_matrices(self, number: int, layer: Layer) -> None:
        """Add the matrices of a layer in order of use, in blocks if large, in groups if small."""
        group: list[list[Piece]] = []
        for spec in layer.tensors:
            if spec.placement == "gathered":
                continue
            weight, large = self._split(spec)
            if not large:
                continue
            whole = _pieces(weight, large, 0, weight.shape[0])
            most = self._limits.group_bytes
            nbytes = sum(piece.nbytes for piece in whole)
            is_large = slot_bytes(whole) > most or nbytes > self._limits.max_unit_bytes
            if group and (is_large or slot_bytes([*_flat(group), *whole]) > most):
                self._add_group(number, group)
                group = []
            if is_large:
                for block in self._blocks(weight, large, nbytes, whole):
                    self._add_group(number, [block])
            else:
                group.append(whole)
        if group:
            self._add_group(number, group)

    def _split(self, spec: TensorSpec) -> tuple[StoredWeight, list[StoredPart]]:
        """Return a weight, and its parts that are not always resident, but read with it."""
        found = self._seen.get(spec.name)
        if found is not None:
            return found
        weight = self._files.stored(spec.name)
        large: list[StoredPart] = []
        if len(spec.shape) > 1 and spec.placement != "resident":
            # a table is looked up by rows; it is a matrix however small it is
            least = 0 if spec.name == self._table else self._limits.resident_below
            large = [part for part in weight.parts if part.info.nbytes >= least]
        self._seen[spec.name] = weight, large
        return weight, large

    def _small_pieces(self, spec: TensorSpec) -> list[Piece]:
        weight, large = self._split(spec)
        if len(large) == len(weight.parts):
            return []
        small = [part for part in weight.parts if part not in large]
        return _pieces(weight, small, 0, weight.shape[0])

    def _blocks(
        self,
        weight: StoredWeight,
        parts: Sequence[StoredPart],
        nbytes: int,
        whole: list[Piece],
    ) -> list[list[Piece]]:
        rows = weight.shape[0]
        steps = [part.rows for part in parts]
        if not all(steps) or not weight.row_step:
            return [whole]  # every row needs all of some part
        multiple = lcm(weight.row_step, *steps)
        step = rows_per_block(rows, -(-nbytes // rows), self._limits.max_unit_bytes, multiple)
        if step >= rows:
            return [whole]
        return [
            _pieces(weight, parts, start, min(start + step, rows)) for start in range(0, rows, step)
        ]

    def _add_group(self, number: int, group: Sequence[Sequence[Piece]]) -> None:
        first = group[0][0]
        name = first.weight
        if len(group) > 1:
            name += "".join(f" + {pieces[0].weight.split('.')[-2]}" for pieces in group[1:])
        elif first.row_start or first.row_stop < self._files.stored(name).shape[0]:
            name += f"[{first.row_start}:{first.row_stop}]"
        self._add(number, name, _flat(group))

    def _add(self, number: int, name: str, pieces: list[Piece]) -> None:
        # zero points take more once they are a byte each
        grown = sum(max(piece.repacked_nbytes - piece.nbytes, 0) for piece in pieces)
        nbytes = slot_bytes(pieces) + grown
        self.units.append(Unit(len(self.units), number, name, tuple(pieces), nbytes))


def _flat(group: Iterable[Iterable[Piece]]) -> list[Piece]:
    return [piece for pieces in group for piece in pieces]


def _pieces(
    weight: StoredWeight, parts: Iterable[StoredPart], start: int, stop: int
) -> list[Piece]:
    """Return what ``parts`` hold of the rows [start, stop)."""
    pieces = []
    for part in parts:
        info, repacking = part.info, part.repacking
        shape, offset, nbytes = info.shape, info.offset, info.nbytes
        if part.rows and (start, stop) != (0, weight.shape[0]):
            first, last = start // part.rows, -(-stop // part.rows)
            row_bytes = nbytes // shape[0]
            shape = (last - first, *shape[1:])
            offset += first * row_bytes
            nbytes = (last - first) * row_bytes
        pieces.append(
            Piece(
                part.tensor, info.dtype, shape, start, stop, info.file, offset, nbytes,
                weight.name, part.role, 0 if repacking is None else repacking.nbytes(stop - start),
            )
        )  # fmt: skip
    return pieces


def rows_per_block(rows: int, row_bytes: int, max_bytes: int, multiple: int = 1) -> int:
    """Return how many rows of a matrix make a block, so that blocks are of about equal size.

    They are a multiple of ``multiple``, however large that makes them.
    """
    most = max(max_bytes // row_bytes, 1)
    if most >= rows:
        return rows
    step = lcm(_ROWS_STEP, multiple)
    if most < step:
        step = multiple
    most = max(most - most % step, step)
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
        # no dtype has items of more than 8 bytes
        if piece.offset % 8 and piece.offset % max(piece.nbytes // max(prod(piece.shape), 1), 1):
            total += PAGE
    return total
