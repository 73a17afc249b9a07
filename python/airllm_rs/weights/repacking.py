"""Parts that are packed across rows, made what kernels read: in place where they stay in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from airllm_rs import _core

if TYPE_CHECKING:
    from collections.abc import Collection

    from airllm_rs.checkpoint.stored import Repacking


class Place(NamedTuple):
    """Where a part of a block lies in a unit."""

    role: str
    unit: int
    part: int
    offset: int
    """Bytes from the start of that part."""
    nbytes: int


class Repacker:
    """Repacks GPTQ's, AWQ's and compressed-tensors' parts when their weight is used.

    What is resident is repacked once, over its own bytes; zero points of four bits, which become
    bytes, get memory of their own. What streams goes through memory that the next weight reuses.
    """

    def __init__(self) -> None:
        # None: in place
        self._kept: dict[Place, np.ndarray | None] = {}
        self._passing: dict[str, np.ndarray] = {}

    def keep(
        self, place: Place, part: tuple[_core.Lease, int], repacking: Repacking, rows: int
    ) -> tuple[object, int]:
        """Return the buffer of a resident part, and where in it the part begins.

        Args:
            place: The part.
            part: Its lease, and where in it the part begins.
            repacking: What is to be done.
            rows: Of the weight that the part is of.
        """
        if place not in self._kept:
            made = np.empty(repacking.nbytes(rows), np.uint8)
            _repack(place, part, repacking, rows, made)
            # the copy counts from here on: an interruption below loses nothing
            self._kept[place] = made
        kept = self._kept[place]
        if kept is None:
            return part
        if kept.nbytes == place.nbytes:
            lease, start = part
            np.frombuffer(memoryview(lease), np.uint8)[start : start + place.nbytes] = kept
            self._kept[place] = None
            return part
        return kept, 0

    def pass_through(
        self, place: Place, part: tuple[_core.Lease, int], repacking: Repacking, rows: int
    ) -> tuple[object, int]:
        """Return the buffer of a streamed part; arguments as in `keep`.

        The next call for the same role overwrites it.
        """
        nbytes = repacking.nbytes(rows)
        held = self._passing.get(place.role)
        if held is None or held.nbytes < nbytes:
            held = self._passing[place.role] = np.empty(nbytes, np.uint8)
        _repack(place, part, repacking, rows, held[:nbytes])
        return held, 0

    def forget(self, units: Collection[int]) -> None:
        """Forget what was made of parts in ``units``, which will be read again."""
        self._kept = {place: held for place, held in self._kept.items() if place.unit not in units}


def _repack(
    place: Place,
    part: tuple[_core.Lease, int],
    repacking: Repacking,
    rows: int,
    out: np.ndarray,
) -> None:
    lease, start = part
    shape = (rows, repacking.cols, repacking.bits)
    _core.repack(repacking.kind, shape, (lease, start, place.nbytes), out)
