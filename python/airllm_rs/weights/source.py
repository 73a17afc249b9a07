"""The weight source: what a module asks for its matrices, kept in memory or streamed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from airllm_rs.errors import AirLLMError
from airllm_rs.families.family import EMBEDDING
from airllm_rs.weights.dtypes import TORCH_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from airllm_rs import _core
    from airllm_rs.memory import MemoryPlan


@dataclass(frozen=True, slots=True)
class Block:
    """Rows [start, stop) of a matrix and where they lie inside a unit."""

    unit: int
    part: int
    start: int
    stop: int
    shape: tuple[int, ...]
    numel: int


class Matrix:
    """One tensor of the checkpoint as blocks of rows, each an independent product."""

    def __init__(
        self, source: WeightSource, name: str, dtype: str, blocks: tuple[Block, ...]
    ) -> None:
        self.name = name
        self.blocks = blocks
        self.shape = (blocks[-1].stop, *blocks[0].shape[1:])
        self.stored_dtype = TORCH_DTYPES[dtype]
        self._source = source
        self._kept: list[Tensor | None] = [None] * len(blocks)
        self._converted: Tensor | None = None

    @property
    def is_resident(self) -> bool:
        """Whether every block is kept in memory."""
        return all(block.unit in self._source.residents for block in self.blocks)

    def take(self, index: int, *, out_of_turn: bool = False) -> Tensor:
        """Wait for block ``index`` and return it in the dtype of the arithmetic.

        Drop the tensor before `done`, which gives the memory under a streamed one back.
        ``out_of_turn`` is for a use outside of the sweep's order.
        """
        block = self.blocks[index]
        if self._converted is not None:
            return self._converted[block.start : block.stop]
        weight = self._kept[index]
        if weight is None:
            weight = self._source.view(block, self.stored_dtype, out_of_turn=out_of_turn)
            if block.unit in self._source.residents:
                self._kept[index] = weight
        try:
            return self._source.converted(weight)
        finally:
            # not left to the frame, which a traceback would keep, and the lease with it
            del weight

    def done(self, index: int) -> None:
        """Say that block ``index`` was used."""
        if self._kept[index] is None and self._converted is None:
            self._source.used(self.blocks[index].unit)

    def whole(self) -> Tensor | None:
        """Wait for a resident matrix and return it as one tensor.

        It is of the stored dtype, or of that of the arithmetic where the plan has room for it.
        Returns None for a matrix that is streamed, or whose blocks do not adjoin in memory.
        """
        if self._converted is not None or not self.is_resident:
            return self._converted
        if self._source.converts_for_good(self):
            self._convert()
            return self._converted
        parts = []
        for index, block in enumerate(self.blocks):
            kept = self._kept[index]
            if kept is None:
                kept = self._source.view(block, self.stored_dtype)
                self._kept[index] = kept
            parts.append(kept)
        return parts[0] if len(parts) == 1 else self._source.joined(parts, self.shape)

    def forget(self) -> None:
        """Let go of the blocks that were kept."""
        self._kept = [None] * len(self.blocks)
        self._converted = None

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows ``ids`` of a resident matrix in the dtype of the arithmetic."""
        whole = self.whole()
        if whole is not None:
            return functional.embedding(ids, whole).to(self._source.compute_dtype)
        out = torch.empty((*ids.shape, self.shape[1]), dtype=self._source.compute_dtype)
        for index, block in enumerate(self.blocks):
            wanted = (ids >= block.start) & (ids < block.stop)
            if wanted.any():
                kept = self._kept[index]
                if kept is None:
                    kept = self._kept[index] = self._source.view(block, self.stored_dtype)
                out[wanted] = kept[ids[wanted] - block.start].to(out.dtype)
        return out

    def _convert(self) -> None:
        whole = torch.empty(self.shape, dtype=self._source.compute_dtype)
        for block in self.blocks:
            whole[block.start : block.stop] = self._source.view(block, self.stored_dtype)
        # first: an interruption below must not lose what can no longer be read
        self._converted = whole
        self._source.drop_stored(self)


class WeightSource:
    """Hands out the tensors of a plan's units and gives them back to the readahead after use.

    A unit that holds several matrices stays leased until the last of them was used in this sweep.
    Not for several threads at a time.
    """

    def __init__(
        self,
        plan: MemoryPlan,
        readahead: _core.Readahead,
        *,
        compute_dtype: torch.dtype,
        prefetching: bool = True,
    ) -> None:
        self.compute_dtype = compute_dtype
        self.residents = frozenset(plan.residents)
        self.readahead = readahead
        self._prefetching = prefetching
        self._order = plan.order
        self._streamable = frozenset(plan.order)
        self._converts_all = plan.resident_dtype == "compute"
        self._table = None if plan.tied else EMBEDDING
        self._scratch = torch.empty(0, dtype=compute_dtype)
        self._leases: dict[int, _core.Lease] = {}
        self._unused: dict[int, int] = {}
        self._is_holding = False
        self._offsets = [readahead.offsets(unit.index) for unit in plan.units]
        self._uses = [len(unit.pieces) for unit in plan.units]
        self._stored = list(self._uses)
        self._matrices = {
            name: Matrix(self, name, dtype, tuple(sorted(blocks, key=lambda block: block.start)))
            for name, (dtype, blocks) in _blocks_by_name(plan).items()
        }

    def __contains__(self, name: str) -> bool:
        return name in self._matrices

    def matrix(self, name: str) -> Matrix:
        """Return the tensor ``name`` of the checkpoint."""
        return self._matrices[name]

    def vector(self, name: str) -> Tensor:
        """Return a copy of a small tensor, always resident, in the dtype of the arithmetic."""
        matrix = self._matrices[name]
        whole = matrix.whole()
        if whole is None:
            raise AirLLMError(f"{name} is not a resident tensor of the memory plan")
        matrix.forget()
        return whole.to(self.compute_dtype, copy=True)

    @property
    def is_streaming(self) -> bool:
        """Whether a sweep reads anything from disk."""
        return any(unit not in self.residents for unit in self._order)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep what is leased inside, so that several chunks of tokens use one reading of it."""
        self._is_holding = True
        try:
            yield
        finally:
            self._is_holding = False
            for unit in [unit for unit, unused in self._unused.items() if unused <= 0]:
                self._give_back(unit)

    def expect(self, units: Sequence[int] | None = None) -> None:
        """Schedule one sweep of ``units`` only, or sweeps over everything without an end (None)."""
        if not self._prefetching or not self.is_streaming:
            return
        if units is None:
            self.readahead.schedule(self._order, cyclic=True)
        else:
            self.readahead.schedule(units)

    def release(self) -> None:
        """Give back everything leased."""
        self._leases.clear()
        self._unused.clear()

    def units_of(self, names: Sequence[str]) -> set[int]:
        """Return the units that hold the tensors ``names``."""
        return {block.unit for name in names for block in self._matrices[name].blocks}

    @property
    def order(self) -> tuple[int, ...]:
        """The units of one sweep, in order of use."""
        return self._order

    def adopt(self, plan: MemoryPlan) -> frozenset[int]:
        """Give up the residents that ``plan`` no longer keeps, and return them.

        ``plan`` has the same units. Tensors made of such residents must have been dropped.
        """
        given_up = self.residents - frozenset(plan.residents)
        if added := frozenset(plan.residents) - self.residents:
            raise ValueError(f"residents cannot be added to a running plan: units {sorted(added)}")
        self.release()
        for matrix in self._matrices.values():
            if any(block.unit in given_up for block in matrix.blocks):
                matrix.forget()
        if given_up:
            # all or none: if somebody holds one, the residents are what they were
            self.readahead.evict(sorted(given_up))
        self.residents = frozenset(plan.residents)
        if given_up:
            self.expect()
        return given_up

    def close(self) -> None:
        """Stop reading and let go of everything."""
        self.release()
        for matrix in self._matrices.values():
            matrix.forget()
        self._scratch = torch.empty(0, dtype=self.compute_dtype)
        self.readahead.close()

    def view(self, block: Block, dtype: torch.dtype, *, out_of_turn: bool = False) -> Tensor:
        """Wait for a block's unit and return the block where it lies, in the stored dtype."""
        unit = block.unit
        offset = self._offsets[unit][block.part]
        if unit in self.residents:
            lease = self.readahead.take(unit)
        else:
            held = self._leases.get(unit)
            if held is None:
                if out_of_turn or not self._prefetching:
                    self.readahead.demand((unit,))
                held = self._leases[unit] = self.readahead.take(unit)
                self._unused[unit] = self._uses[unit]
            lease = held
        flat = torch.frombuffer(lease, dtype=dtype, count=block.numel, offset=offset)
        return flat.view(block.shape)

    def used(self, unit: int) -> None:
        """Count one use of a streamed unit; give it back after the last of this sweep."""
        self._unused[unit] -= 1
        if self._unused[unit] <= 0 and not self._is_holding:
            self._give_back(unit)

    def converted(self, weight: Tensor) -> Tensor:
        """Return ``weight`` in the dtype of the arithmetic; the next conversion overwrites it."""
        if weight.dtype == self.compute_dtype:
            return weight
        try:
            if self._scratch.numel() < weight.numel():
                self._scratch = torch.empty(weight.numel(), dtype=self.compute_dtype)
            return self._scratch[: weight.numel()].view(weight.shape).copy_(weight)
        finally:
            del weight  # as in `Matrix.take`

    def converts_for_good(self, matrix: Matrix) -> bool:
        """Tell whether a resident matrix is converted once, and not whenever it is used.

        Small ones are; the others where the plan says that all fit so. An embedding table is not:
        few of its rows are used at a time.
        """
        if matrix.stored_dtype == self.compute_dtype or matrix.name == self._table:
            return False
        return self._converts_all or not any(b.unit in self._streamable for b in matrix.blocks)

    def drop_stored(self, matrix: Matrix) -> None:
        """Give the stored bytes of a converted matrix back, once its unit holds no other."""
        for block in matrix.blocks:
            self._stored[block.unit] -= 1
            if not self._stored[block.unit] and block.unit in self._streamable:
                self.readahead.evict((block.unit,))

    def joined(self, parts: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor | None:
        """Return resident blocks as one tensor if they adjoin in the arena."""
        end = parts[0].data_ptr()
        for part in parts:
            if part.data_ptr() != end:
                return None
            end += part.nbytes
        arena = torch.frombuffer(self.readahead.arena, dtype=torch.uint8)
        start = parts[0].data_ptr() - arena.data_ptr()
        return arena[start : start + end - parts[0].data_ptr()].view(parts[0].dtype).view(shape)

    def _give_back(self, unit: int) -> None:
        del self._leases[unit]
        del self._unused[unit]


def _blocks_by_name(plan: MemoryPlan) -> dict[str, tuple[str, list[Block]]]:
    found: dict[str, tuple[str, list[Block]]] = {}
    for unit in plan.units:
        for part, piece in enumerate(unit.pieces):
            numel = 1
            for length in piece.shape:
                numel *= length
            block = Block(unit.index, part, piece.row_start, piece.row_stop, piece.shape, numel)
            found.setdefault(piece.name, (piece.dtype, []))[1].append(block)
    return found
