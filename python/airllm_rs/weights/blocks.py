"""The blocks of rows that matrices are used in, and where the parts of each lie."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from airllm_rs.weights.repacking import Place

if TYPE_CHECKING:
    from airllm_rs.checkpoint import StoredWeight
    from airllm_rs.memory import MemoryPlan
    from airllm_rs.memory.units import Piece


@dataclass(frozen=True, slots=True)
class Block:
    """Rows [start, stop) of a matrix, and where their parts lie."""

    unit: int
    """The one that is read for it; small parts may be in another, always resident."""
    start: int
    stop: int
    shape: tuple[int, ...]
    places: tuple[Place, ...]

    @property
    def numel(self) -> int:
        """How many numbers it is."""
        return prod(self.shape)


def blocks_of(plan: MemoryPlan) -> dict[str, tuple[Block, ...]]:
    """Return the blocks of each weight of a plan, in order of rows."""
    found: dict[str, dict[int, list[tuple[Piece, Place]]]] = {}
    whole: dict[str, list[tuple[Piece, Place]]] = {}
    for unit in plan.units:
        for part, piece in enumerate(unit.pieces):
            entry = (piece, Place(piece.role, unit.index, part, 0, piece.nbytes))
            if unit.index in plan.inputs.table.always:
                whole.setdefault(piece.weight, []).append(entry)
            else:
                found.setdefault(piece.weight, {}).setdefault(piece.row_start, []).append(entry)
    blocks = {}
    for name in found.keys() | whole.keys():
        stored = plan.inputs.files.stored(name)
        always = whole.get(name, [])
        cut = found.get(name) or {0: []}
        blocks[name] = tuple(_block(stored, cut[start], always) for start in sorted(cut))
    return blocks


def _block(
    stored: StoredWeight, own: list[tuple[Piece, Place]], always: list[tuple[Piece, Place]]
) -> Block:
    """Return the block whose rows ``own`` holds, with its share of the parts in memory."""
    piece, place = (own or always)[0]
    start, stop = piece.row_start, piece.row_stop
    places = [place for _, place in own]
    rows_of = {part.role: part.rows for part in stored.parts}
    for kept, place_of_kept in always:
        step = rows_of[kept.role]
        if own and step:
            step_bytes = kept.nbytes // kept.shape[0]
            first = start // step
            place_of_kept = place_of_kept._replace(
                offset=first * step_bytes, nbytes=(-(-stop // step) - first) * step_bytes
            )
        places.append(place_of_kept)
    shape = (stop - start, *stored.shape[1:])
    return Block(place.unit, start, stop, shape, tuple(places))
