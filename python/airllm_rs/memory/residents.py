"""Which units stay in memory, and how large the ring is that the others pass through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airllm_rs.memory.units import PlanLimits, UnitTable


@dataclass(frozen=True, slots=True)
class Allotment:
    """What becomes of the memory for weights."""

    residents: tuple[int, ...]
    """Unit indexes: small tensors, then the embedding table, then matrices in order of use."""
    ring_bytes: int
    holds_layer: bool
    """Whether a prompt can pass a layer in several chunks before the next layer is read."""


def allot(table: UnitTable, room: int, limits: PlanLimits) -> Allotment | None:
    """Divide ``room`` bytes between residents and a ring; None if nothing works in so few.

    The head stays, if it can; what else stays is spread evenly over the sweep.
    """
    room -= table.nbytes(table.always)
    if table.nbytes(table.order) <= room:
        stays = table.nbytes((*table.embedding, *table.order)) <= room
        embedding = table.embedding if stays else ()
        return Allotment((*table.always, *embedding, *table.order), 0, holds_layer=True)
    with_head = room - table.nbytes(table.head)
    for kept, candidates, space in (
        (table.head, table.decoder, with_head),
        ((), table.order, room),
    ):
        ring = _ring(table, candidates, space, limits)
        if ring is None:
            continue
        sizes = [table.units[index].nbytes for index in candidates]
        chosen = [candidates[i] for i in spread(sizes, space - ring)]
        residents = (*table.always, *chosen, *kept)
        return Allotment(residents, ring, holds_layer(table, residents, ring))
    return None


def give_up(table: UnitTable, residents: Sequence[int], ring: int, room: int) -> Allotment | None:
    """Keep those of ``residents`` that fit into ``room`` beside the ring; None if none do.

    The embedding table goes first, since reading single rows costs least; the head goes last.
    """
    space = room - ring - table.nbytes(table.always)
    held = set(residents)
    embedding = [index for index in table.embedding if index in held]
    decoder = [index for index in table.decoder if index in held]
    head = [index for index in table.head if index in held]
    if table.nbytes((*embedding, *decoder, *head)) > space:
        embedding = []
    if table.nbytes(head) > space:
        head = [head[i] for i in spread([table.units[index].nbytes for index in head], space)]
    sizes = [table.units[index].nbytes for index in decoder]
    chosen = [decoder[i] for i in spread(sizes, space - table.nbytes((*embedding, *head)))]
    kept = (*table.always, *embedding, *chosen, *head)
    streamed = [table.units[index].nbytes for index in table.order if index not in set(kept)]
    if space < 0 or (streamed and ring < _two_largest(streamed)):
        return None
    return Allotment(kept, ring, holds_layer(table, kept, ring))


def smallest_room(table: UnitTable) -> int:
    """Return the fewest bytes for weights that work: all that may stream does, two units at a time.

    Keeping a unit never needs less than streaming it: of the two largest units, one that stays
    makes room for the next smaller one in the ring, not for itself.
    """
    sizes = [table.units[index].nbytes for index in table.order]
    return table.nbytes(table.always) + _two_largest(sizes)


def holds_layer(table: UnitTable, residents: Iterable[int], ring: int) -> bool:
    """Tell whether the ring holds what is streamed of any layer, and its two largest units."""
    return _layer_room(table, set(residents)) <= ring


def spread(sizes: Sequence[int], room: int) -> list[int]:
    """Choose indexes whose sizes fill ``room``, so that any stretch of them has its even share."""
    total = sum(sizes)
    if total <= room:
        return list(range(len(sizes)))
    taken: set[int] = set()
    left = room
    credit = 0  # in bytes times total, to stay in whole numbers
    for index, size in enumerate(sizes):
        credit += size * max(room, 0)
        if 2 * credit >= size * total and size <= left:
            taken.add(index)
            left -= size
            credit -= size * total
    middle = len(sizes) // 2  # the head stays at one end of the sweep: fill up far from it
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], abs(i - middle))):
        if index not in taken and sizes[index] <= left:
            taken.add(index)
            left -= sizes[index]
    return sorted(taken)


def _ring(table: UnitTable, streamed: Sequence[int], space: int, limits: PlanLimits) -> int | None:
    """Return the bytes of a ring for ``streamed`` within ``space``, None if there is no room."""
    sizes = [table.units[index].nbytes for index in streamed]
    workable = _two_largest(sizes)
    if workable > space:
        return None
    useful = min(limits.ring_bytes, sum(sizes), space // 2)
    layer = max(workable, _layer_room(table, set(table.order) - set(streamed)))
    return max(layer if layer <= space else workable, useful - useful % 4096)


def _layer_room(table: UnitTable, residents: set[int]) -> int:
    streamed = [index for index in table.decoder if index not in residents]
    most = 0
    for layer in table.by_layer(streamed):
        sizes = [table.units[index].nbytes for index in layer]
        # a second unit as large as the only one: that of the next layer
        most = max(most, sum(sizes) + _two_largest(sizes if len(sizes) > 1 else sizes * 2))
    return most


def _two_largest(sizes: Sequence[int]) -> int:
    return sum(sorted(sizes)[-2:])
