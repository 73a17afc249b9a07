"""Gives the modules of transformers their tensors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from airllm_rs.layers.linear import multiply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from airllm_rs.layers.streamed import LinearWithWeight, Streamed
    from airllm_rs.models.bridge.names import Origin
    from airllm_rs.weights.source import Matrix, WeightSource


class Scope:
    """What was put together for the layer that is running."""

    def __init__(self) -> None:
        self.made: dict[object, dict[str, Tensor]] = {}

    def clear(self) -> None:
        """Let go of it."""
        self.made.clear()


class StoredWeights:
    """One tensor of the checkpoint as a parameter."""

    def __init__(
        self, matrix: Matrix, scope: Scope, dtype: torch.dtype, compute: torch.dtype
    ) -> None:
        self.shape = matrix.shape
        self.dtype = dtype
        self._matrix = matrix
        self._scope = scope
        self._compute = compute

    def tensor(self) -> Tensor:
        """Return a copy of the numbers, one for the layer that runs."""
        found = self._scope.made.get(self)
        if found is None:
            found = self._scope.made[self] = {"": assembled(self._matrix, self.dtype)}
        return found[""]

    @contextmanager
    def once(self) -> Iterator[Tensor]:
        """Lend the numbers where they lie, if they lie there as they are needed."""
        matrix = self._matrix
        is_whole = len(matrix.blocks) == 1 and not matrix.interleaved and not matrix.is_packed
        is_kept = self._scope.made.get(self) is not None
        if is_kept or not is_whole or not matrix.stored_dtype == self.dtype == self._compute:
            yield self.tensor() if is_kept else assembled(matrix, self.dtype)
            return
        pieces = matrix.pieces(0)
        try:
            _, _, numbers = next(pieces)
            try:
                yield numbers
            finally:
                del numbers  # not left to the frame, which a traceback would keep
        finally:
            pieces.close()
            matrix.done(0)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """Multiply ``x`` (…, in) with the matrix (out, in) block by block."""
        is_kept = self._scope.made.get(self) is not None
        if is_kept or len(self.shape) != 2 or x.dtype != self._compute or self.dtype != x.dtype:
            return None
        return multiply(x, self._matrix, bias)

    def rows(self, ids: Tensor) -> Tensor | None:
        """Return nothing: rows are taken from the whole."""
        return None


class TableRows:
    """An embedding table whose rows are looked up one by one."""

    def __init__(
        self, whole: StoredWeights, rows: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> None:
        self.shape = whole.shape
        self.dtype = dtype
        self._whole = whole
        self._rows = rows
        self.tensor = whole.tensor
        self.once = whole.once
        self.product = whole.product

    def rows(self, ids: Tensor) -> Tensor | None:
        """Return the rows ``ids`` of any shape."""
        return self._rows(ids).to(self.dtype)


class MadeWeights:
    """A parameter that rules make of tensors of the checkpoint."""

    def __init__(
        self,
        name: str,
        parameter: Tensor,
        origin: Origin,
        scope: Scope,
        weights: WeightSource,
        model: nn.Module,
    ) -> None:
        self.shape = tuple(parameter.shape)
        self.dtype = parameter.dtype
        self._name = name
        self._origin = origin
        self._scope = scope
        self._weights = weights
        self._model = model

    def tensor(self) -> Tensor:
        """Return the numbers, made once for the layer that runs."""
        made = self._scope.made.get(self._origin)
        if made is None:
            made = self._origin.convert(self._source, self._model)
            self._scope.made[self._origin] = made
        return made[self._name].to(self.dtype)

    @contextmanager
    def once(self) -> Iterator[Tensor]:
        """Lend the numbers."""
        yield self.tensor()

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """Return nothing: there is no such matrix in the checkpoint."""
        return None

    def rows(self, ids: Tensor) -> Tensor | None:
        """Return nothing: rows are taken from the whole."""
        return None

    def _source(self, name: str) -> Tensor:
        return assembled(self._weights.matrix(name), self._weights.compute_dtype)


def assembled(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    """Return a copy of all blocks of ``matrix``, each given back as soon as it was copied."""
    out = torch.empty(matrix.shape, dtype=dtype)
    for index in range(len(matrix.blocks)):
        pieces = matrix.pieces(index)
        try:
            for start, stop, numbers in pieces:
                try:
                    out[start:stop] = numbers
                finally:
                    del numbers
        finally:
            pieces.close()
            matrix.done(index)
    return out


class LayerBinding:
    """The parameters of one layer, or of what is outside of all."""

    def __init__(self) -> None:
        self.is_settled = False
        self._small: list[tuple[list[tuple[nn.Module, str]], str, torch.dtype]] = []
        self._linears: list[tuple[LinearWithWeight, Matrix]] = []
        self._whole: list[tuple[list[tuple[nn.Module, str]], Matrix, Streamed]] = []

    def add_small(self, places: list[tuple[nn.Module, str]], name: str, dtype: torch.dtype) -> None:
        """Assign a tensor that is always in memory."""
        self._small.append((places, name, dtype))

    def add_linear(self, linear: LinearWithWeight, matrix: Matrix) -> None:
        """Attach a matrix to a layer of ours."""
        self._linears.append((linear, matrix))

    def add_streamed(
        self, places: list[tuple[nn.Module, str]], streamed: Streamed, matrix: Matrix | None
    ) -> None:
        """Put what stands for a weight in its places; ``matrix`` may be put there itself."""
        for module, local in places:
            module._parameters[local] = streamed  # type: ignore[assignment]
        if matrix is not None:
            self._whole.append((places, matrix, streamed))

    def settle(self, weights: WeightSource) -> None:
        """Wait for what stays in memory and assign it, once and for all."""
        # tensors of inference mode could take no part in a later backward pass
        with torch.inference_mode(mode=False):
            for places, name, dtype in self._small:
                parameter = nn.Parameter(weights.vector(name, dtype), requires_grad=False)
                for module, local in places:
                    module._parameters[local] = parameter
            for linear, _ in self._linears:
                linear.bind(weights.compute_dtype)
            for places, matrix, streamed in self._whole:
                whole = matrix.whole()
                if whole is not None and whole.dtype == streamed.dtype and not matrix.interleaved:
                    for module, local in places:
                        module._parameters[local] = nn.Parameter(whole, requires_grad=False)
        self.is_settled = True

    def unbind(self, weights: WeightSource, units: frozenset[int]) -> None:
        """Let go of weights that lie in ``units``."""
        for linear, matrix in self._linears:
            if weights.units_of([matrix.name]) & units:
                linear.attach(matrix, weights.compute_dtype)
        for places, matrix, streamed in self._whole:
            if weights.units_of([matrix.name]) & units:
                for module, local in places:
                    module._parameters[local] = streamed  # type: ignore[assignment]
