"""The weight source: what a module asks for its matrices, kept in memory or streamed."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import contextmanager, suppress
from math import prod
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from airllm_rs import _core
from airllm_rs.checkpoint.stored import Q
from airllm_rs.errors import AirLLMError
from airllm_rs.memory.demand import SCRATCH_BYTES
from airllm_rs.weights.blocks import blocks_of
from airllm_rs.weights.dtypes import TORCH_DTYPES
from airllm_rs.weights.packed import (
    dequantize_rows,
    packed_layout,
    plain_layout,
    tensor_weight,
)
from airllm_rs.weights.repacking import Repacker

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from torch import Tensor

    from airllm_rs.checkpoint import StoredWeight
    from airllm_rs.checkpoint.stored import Repacking
    from airllm_rs.memory import MemoryPlan
    from airllm_rs.weights.blocks import Block
    from airllm_rs.weights.repacking import Place


class Matrix:
    """One weight of the model as blocks of rows, each an independent product."""

    def __init__(
        self, source: WeightSource, stored: StoredWeight, blocks: tuple[Block, ...]
    ) -> None:
        self.name = stored.name
        self.blocks = blocks
        self.shape = stored.shape
        self.is_packed = stored.layout is not None
        self.interleaved = stored.interleaved
        self.shift = stored.shift
        self.stored_dtype = source.compute_dtype if self.is_packed else TORCH_DTYPES[stored.dtype]
        self._source = source
        self._layout = packed_layout(stored.layout) if stored.layout else plain_layout(stored.dtype)
        self._constants = stored.constants
        self._repacking = {p.role: p.repacking for p in stored.parts if p.repacking is not None}
        self._kept: list[_core.Weight | None] = [None] * len(blocks)
        self._all: tuple[_core.Weight, ...] | None = None
        self._converted: Tensor | None = None

    @property
    def is_repacked(self) -> bool:
        """Whether a streamed block is valid only until the next one is taken, of any matrix."""
        return bool(self._repacking)

    @property
    def is_resident(self) -> bool:
        """Whether every block is kept in memory."""
        return all(block.unit in self._source.residents for block in self.blocks)

    @property
    def residents(self) -> frozenset[int]:
        """The units kept in memory, of all matrices; another object when they change."""
        return self._source.residents

    def take(self, index: int, *, out_of_turn: bool = False) -> _core.Weight:
        """Wait for block ``index`` and return it as it lies, or as it was converted for good.

        Drop it before `done`, which gives the memory under a streamed one back. ``out_of_turn`` is
        for a use outside of the sweep's order.
        """
        weight = self._kept[index]
        if weight is not None:
            return weight
        block = self.blocks[index]
        if self._converted is not None:
            weight = tensor_weight(self._converted[block.start : block.stop])
        else:
            weight = self._weight(block, out_of_turn=out_of_turn)
        if block.unit in self._source.residents or self._converted is not None:
            self._kept[index] = weight
        try:
            return weight
        finally:
            # not left to the frame, which a traceback would keep, and the lease with it
            del weight

    def kept(self) -> tuple[_core.Weight, ...] | None:
        """Return every block as `take` does, if all are kept in memory."""
        if self._all is None and (self._converted is not None or self.is_resident):
            self._all = tuple(self.take(index) for index in range(len(self.blocks)))
        return self._all

    def done(self, index: int) -> None:
        """Say that block ``index`` was used."""
        unit = self.blocks[index].unit
        if self._kept[index] is None and unit not in self._source.residents:
            self._source.used(unit)

    def pieces(
        self, index: int, *, out_of_turn: bool = False
    ) -> Generator[tuple[int, int, Tensor]]:
        """Wait for block ``index`` and yield its rows as numbers of the arithmetic's dtype.

        Yields (first row, one after the last, numbers); rows are the matrix's. What is yielded may
        be overwritten by the next.
        """
        block = self.blocks[index]
        if self._converted is not None:
            yield block.start, block.stop, self._converted[block.start : block.stop]
        elif not self.is_packed and self.stored_dtype == self._source.compute_dtype:
            plain = self._source.view(block, self.stored_dtype, out_of_turn=out_of_turn)
            try:
                yield block.start, block.stop, plain
            finally:
                del plain
        else:
            weight = self.take(index, out_of_turn=out_of_turn)
            try:
                for start, stop in self._source.scratch_rows(block):
                    numbers = self._source.scratch(stop - start, *block.shape[1:])
                    dequantize_rows(weight, numbers, start, stop)
                    yield block.start + start, block.start + stop, numbers
            finally:
                del weight

    def whole(self) -> Tensor | None:
        """Wait for a resident matrix of plain numbers and return it as one tensor.

        It is of the stored dtype, or of that of the arithmetic where the plan has room for it.
        Returns None for a matrix that is packed or streamed, or whose blocks do not adjoin in
        memory.
        """
        if self._converted is not None or self.is_packed or not self.is_resident:
            return self._converted
        if self._source.converts_for_good(self):
            self._convert()
            return self._converted
        parts = [self._source.view(block, self.stored_dtype) for block in self.blocks]
        return parts[0] if len(parts) == 1 else self._source.joined(parts, self.shape)

    def forget(self) -> None:
        """Let go of the blocks that were kept."""
        self._kept = [None] * len(self.blocks)
        self._all = None
        self._converted = None

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows ``ids`` of a resident matrix in the dtype of the arithmetic."""
        whole = self.whole()
        if whole is not None:
            return functional.embedding(ids, whole).to(self._source.compute_dtype)
        out = torch.empty((ids.numel(), self.shape[1]), dtype=self._source.compute_dtype)
        starts = [block.start for block in self.blocks]
        for number, row in enumerate(ids.reshape(-1).tolist()):
            index = bisect_right(starts, row) - 1
            first = row - starts[index]
            dequantize_rows(self.take(index), out[number : number + 1], first, first + 1)
        return out.view(*ids.shape, self.shape[1])

    def _weight(self, block: Block, *, out_of_turn: bool) -> _core.Weight:
        if self._layout is None:
            numbers = self._source.view(block, self.stored_dtype, out_of_turn=out_of_turn)
            return tensor_weight(numbers.to(self._source.compute_dtype))
        parts: dict[str, tuple[object, int]] = {
            role: (constant, 0) for role, constant in self._constants.items()
        }
        rows = prod(block.shape[:-1])
        for place in block.places:
            repacking = self._repacking.get(place.role)
            if repacking is None:
                parts[place.role] = self._source.place(place, out_of_turn=out_of_turn)
            else:
                parts[place.role] = self._source.repacked(
                    place, repacking, rows, out_of_turn=out_of_turn
                )
        q = parts.pop(Q)
        try:
            return _core.Weight(self._layout, rows, block.shape[-1], q, **parts)
        finally:
            del parts, q  # as in `take`

    def _convert(self) -> None:
        whole = torch.empty(self.shape, dtype=self._source.compute_dtype)
        for block in self.blocks:
            whole[block.start : block.stop] = self._source.view(block, self.stored_dtype)
        # first: an interruption below must not lose what can no longer be read
        self._converted = whole
        self._kept = [None] * len(self.blocks)
        self._all = None
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
        self._table = None if plan.tied else plan.layers[0].tensors[0].name
        self._scratch = torch.empty(0, dtype=compute_dtype)
        self._repacker = Repacker()
        self._leases: dict[int, _core.Lease] = {}
        self._unused: dict[int, int] = {}
        self._is_holding = False
        self._offsets = [readahead.offsets(unit.index) for unit in plan.units]
        self._uses = [len(unit.weights) for unit in plan.units]
        self._stored = list(self._uses)
        stored = plan.inputs.files.stored
        self._matrices = {
            name: Matrix(self, stored(name), blocks) for name, blocks in blocks_of(plan).items()
        }

    def __contains__(self, name: str) -> bool:
        return name in self._matrices

    def matrix(self, name: str) -> Matrix:
        """Return the tensor ``name`` of the checkpoint."""
        return self._matrices[name]

    def vector(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Return a copy of a small tensor, always resident, in ``dtype`` or the arithmetic's."""
        matrix = self._matrices[name]
        if matrix.shift:
            (block,) = matrix.blocks
            numbers = self.view(block, matrix.stored_dtype).float() + matrix.shift
            matrix.forget()
            return numbers.to(dtype or self.compute_dtype)
        dtype = dtype or self.compute_dtype
        if matrix.is_packed and len(matrix.blocks) == 1 and matrix.is_resident:
            numbers = torch.empty(matrix.shape, dtype=self.compute_dtype)
            weight = matrix.take(0)
            dequantize_rows(weight, numbers, 0, weight.shape[0])
            del weight
            matrix.forget()
            return numbers.to(dtype)
        if dtype != self.compute_dtype and not matrix.is_packed and matrix.is_resident:
            parts = [self.view(block, matrix.stored_dtype) for block in matrix.blocks]
            return torch.cat(parts).to(dtype, copy=True)
        whole = matrix.whole()
        if whole is None:
            raise AirLLMError(f"{name} is not a resident tensor of the memory plan")
        matrix.forget()
        return whole.to(dtype, copy=True)

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

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Give everything back at the end; after an exception, expect whole sweeps again."""
        try:
            yield
        except BaseException:
            self.release()
            # what cannot be read is told by the next sweep, and hides nothing here
            with suppress(AirLLMError, OSError, RuntimeError):
                self.expect()
            raise
        finally:
            self.release()

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
            self._repacker.forget(given_up)
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
        self._repacker = Repacker()
        self.readahead.close()

    def view(self, block: Block, dtype: torch.dtype, *, out_of_turn: bool = False) -> Tensor:
        """Wait for a block of plain numbers and return it where it lies, in the stored dtype."""
        (place,) = block.places
        lease, start = self.place(place, out_of_turn=out_of_turn)
        flat = torch.frombuffer(lease, dtype=dtype, count=block.numel, offset=start)
        return flat.view(block.shape)

    def place(self, place: Place, *, out_of_turn: bool = False) -> tuple[_core.Lease, int]:
        """Wait for a part's unit and return its lease, and where in it the block's share begins."""
        unit = place.unit
        offset = self._offsets[unit][place.part] + place.offset
        if unit in self.residents:
            return self.readahead.take(unit), offset
        held = self._leases.get(unit)
        if held is None:
            if out_of_turn or not self._prefetching:
                self.readahead.demand((unit,))
            held = self._leases[unit] = self.readahead.take(unit)
            self._unused[unit] = self._uses[unit]
        return held, offset

    def repacked(
        self, place: Place, repacking: Repacking, rows: int, *, out_of_turn: bool
    ) -> tuple[object, int]:
        """Wait for a part that is packed across rows and return it as kernels read it."""
        part = self.place(place, out_of_turn=out_of_turn)
        try:
            if place.unit in self.residents:
                return self._repacker.keep(place, part, repacking, rows)
            return self._repacker.pass_through(place, part, repacking, rows)
        finally:
            del part  # as in `Matrix.take`

    def used(self, unit: int) -> None:
        """Count one use of a streamed unit; give it back after the last of this sweep."""
        if unit not in self._unused:
            return  # it was never leased: waiting for it failed, and whoever waited is told why
        self._unused[unit] -= 1
        if self._unused[unit] <= 0 and not self._is_holding:
            self._give_back(unit)

    def scratch_rows(self, block: Block) -> Iterator[tuple[int, int]]:
        """Yield the rows of a block, from 0, that are converted at a time."""
        rows = block.stop - block.start
        step = max(SCRATCH_BYTES // (block.numel // rows * self.compute_dtype.itemsize), 1)
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def scratch(self, *shape: int) -> Tensor:
        """Return memory for numbers in the dtype of the arithmetic; the next call overwrites it."""
        numel = prod(shape)
        if self._scratch.numel() < numel:
            self._scratch = torch.empty(numel, dtype=self.compute_dtype)
        return self._scratch[:numel].view(shape)

    def converts_for_good(self, matrix: Matrix) -> bool:
        """Tell whether a resident matrix is converted once, and not whenever it is used.

        Small ones are; the others where the plan says that all fit so. An embedding table is not:
        few of its rows are used at a time.
        """
        if matrix.stored_dtype == self.compute_dtype or matrix.name == self._table:
            return False  # a packed one says that it is of the arithmetic's dtype
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
