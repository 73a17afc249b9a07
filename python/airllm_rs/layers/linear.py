"""A linear layer whose matrix may be in memory or on its way from disk, packed or not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from airllm_rs.weights.packed import FEW_ROWS, KERNEL_CODES, buffer, multiply_few

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from airllm_rs import _core
    from airllm_rs.weights.source import Matrix


class Linear(nn.Linear):
    """`nn.Linear` that asks its weight source for the matrix when it runs and then lets go.

    Up to 32 rows are multiplied by kernels that take the matrix as it lies, and whose results for a
    row do not depend on the other rows. More rows are multiplied by torch; a matrix that is packed,
    or of another dtype, is then turned into numbers some rows at a time. A matrix of several row
    blocks is several products, in memory as well as streamed: the bits of the result do not depend
    on what is resident. While the matrix is not bound, ``weight`` is a zero-stride placeholder on
    the device of the arithmetic; whoever looks at its shape, dtype or device (PEFT does) sees the
    truth, whoever multiplies with it gets zeros.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta")
        self.source: Matrix | None = None
        self._bound: Tensor | None = None
        self.requires_grad_(requires_grad=False)

    def reset_parameters(self) -> None:
        """Do nothing: the weights come from a checkpoint."""

    def attach(self, matrix: Matrix, dtype: torch.dtype) -> None:
        """Take the matrix from ``matrix`` whenever the layer runs in ``dtype``."""
        self.source = matrix
        self._bound = None
        self.weight = nn.Parameter(placeholder(matrix.shape, dtype), requires_grad=False)

    def bind(self, dtype: torch.dtype) -> None:
        """Assign the matrix as a parameter, if it is resident, plain and in one piece."""
        if self.source is None:
            return
        whole = self.source.whole()
        if whole is not None and whole.dtype == dtype and not self.source.interleaved:
            self.weight = nn.Parameter(whole, requires_grad=False)
            # blocks are products of their own
            self._bound = self.weight if len(self.source.blocks) == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` of shape (…, in) with the matrix of shape (out, in); add the bias."""
        source = self.source
        if source is None:
            return functional.linear(x, self.weight, self.bias)
        if source.interleaved:
            return halves_apart(self._product(x, source), source.interleaved)
        return self._product(x, source)

    def skip(self) -> None:
        """Let what is streamed for this sweep go by unused, as the order demands."""
        source = self.source
        if source is None or source.kept() is not None:
            return
        for index in range(len(source.blocks)):
            source.take(index)
            source.done(index)

    def _product(self, x: Tensor, source: Matrix) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return _Product.apply(x, self.bias, source)  # type: ignore[no-any-return]
        if self._bound is not None and x.numel() > FEW_ROWS * x.shape[-1]:
            return functional.linear(x, self._bound, self.bias)
        return multiply(x, source, self.bias)


@contextmanager
def numbers(linear: Linear) -> Iterator[Tensor]:
    """Wait for the matrix of a layer and lend it, (out, in), in the dtype of the arithmetic.

    What is lent must be let go of inside.
    """
    source = linear.source
    if source is None:
        yield linear.weight
        return
    if linear._bound is not None:
        yield linear._bound
        return
    blocks = range(len(source.blocks))
    whole: Tensor | None = None
    try:
        for index in blocks:
            pieces = source.pieces(index)
            try:
                for start, stop, rows in pieces:
                    if stop - start == source.shape[0]:
                        try:
                            yield rows
                        finally:
                            del rows
                        return
                    if whole is None:
                        whole = rows.new_empty(source.shape)
                    whole[start:stop] = rows
            finally:
                pieces.close()
        assert whole is not None, "a matrix has at least one row"
        yield whole
    finally:
        for index in blocks:
            source.done(index)


def halves_apart(x: Tensor, size: int) -> Tensor:
    """Return ``x`` of shape (…, H·D) with the two halves of each head apart that alternate in it.

    Rows of queries and keys lie so in GGUF files of Llama models, and so do their biases.
    """
    pairs = x.view(*x.shape[:-1], -1, size // 2, 2)
    return pairs.transpose(-1, -2).reshape(x.shape)


def multiply(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    """Multiply ``x`` of shape (…, in) with the row blocks of ``matrix``, into one result."""
    rows = x.numel() // x.shape[-1]
    if rows <= FEW_ROWS and x.dtype in KERNEL_CODES:
        return _multiply_few(x, matrix, bias)
    return multiply_many(x, matrix, bias)


def multiply_many(
    x: Tensor, matrix: Matrix, bias: Tensor | None, *, out_of_turn: bool = False
) -> Tensor:
    """Multiply ``x`` of shape (…, in) with the row blocks of ``matrix`` as torch does it.

    ``out_of_turn`` is for a use outside of the sweep's order.
    """
    blocks = matrix.blocks
    out: Tensor | None = None
    for index in range(len(blocks)):
        pieces = matrix.pieces(index, out_of_turn=out_of_turn)
        try:
            for start, stop, weight in pieces:
                added = None if bias is None else bias[start:stop]
                try:
                    product = functional.linear(x, weight, added)
                finally:
                    # not left to the frame, which a traceback would keep, and the lease with it
                    del weight
                if stop - start == matrix.shape[0]:
                    return product
                if out is None:
                    out = x.new_empty((*x.shape[:-1], matrix.shape[0]))
                out[..., start:stop] = product
        finally:
            pieces.close()
            matrix.done(index)
    assert out is not None, "a matrix has at least one row"
    return out


def add_up(x: Tensor, matrix: Matrix, *, out_of_turn: bool = False) -> Tensor:
    """Multiply ``x`` of shape (…, out) with ``matrix`` of shape (out, in) from the left.

    What its row blocks give is summed. ``out_of_turn`` is for a use outside of the sweep's order.
    """
    total: Tensor | None = None
    for index in range(len(matrix.blocks)):
        pieces = matrix.pieces(index, out_of_turn=out_of_turn)
        try:
            for start, stop, rows in pieces:
                try:
                    part = x[..., start:stop] @ rows
                finally:
                    del rows  # as above
                total = part if total is None else total.add_(part)
        finally:
            pieces.close()
            matrix.done(index)
    assert total is not None, "a matrix has at least one row"
    return total


def multiply_together(x: Tensor, linears: Sequence[nn.Module]) -> list[Tensor]:
    """Return what each of ``linears`` makes of ``x`` (…, in): the same bits as one by one.

    Few rows are multiplied in one call with all matrices, where these are in memory or were read as
    one unit: threads then meet once.
    """
    wants_gradient = x.requires_grad and torch.is_grad_enabled()
    is_few = x.numel() <= FEW_ROWS * x.shape[-1] and x.dtype in KERNEL_CODES
    pairs = None if wants_gradient or not is_few else _together(linears)
    if pairs is None:
        return [linear(x) for linear in linears]
    outs = []
    weights: list[_core.Weight] = []
    places: list[tuple[object, int, int]] = []
    biases: list[Tensor | None] = []
    try:
        for linear, matrix in pairs:
            weights += matrix.kept() or [matrix.take(index) for index in range(len(matrix.blocks))]
            outs.append(torch.empty((*x.shape[:-1], matrix.shape[0]), dtype=x.dtype))
            places += _places(outs[-1], matrix)
            biases += _parts(linear.bias, matrix)
        multiply_few(_flat(x), weights, places, biases)
    finally:
        del weights  # as above
    for _, matrix in pairs:
        if matrix.kept() is None:
            for index in range(len(matrix.blocks)):
                matrix.done(index)
    return [
        halves_apart(out, matrix.interleaved) if matrix.interleaved else out
        for out, (_, matrix) in zip(outs, pairs, strict=True)
    ]


def _together(linears: Sequence[nn.Module]) -> list[tuple[Linear, Matrix]] | None:
    """Return layers and their matrices, if one call can have them all: kept, or of one unit."""
    pairs = []
    for linear in linears:
        # what wraps one or derives from it may do more than multiply
        if type(linear) is not Linear or linear.source is None:
            return None
        pairs.append((linear, linear.source))
    if all(matrix.kept() is not None for _, matrix in pairs):
        return pairs
    if any(matrix.is_repacked for _, matrix in pairs):
        return None  # one at a time: the next is repacked over the one before
    units = {block.unit for _, matrix in pairs for block in matrix.blocks}
    return pairs if len(units) == 1 else None


def _multiply_few(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    flat = _flat(x)
    out = torch.empty((*x.shape[:-1], matrix.shape[0]), dtype=x.dtype)
    places, biases = _places(out, matrix), _parts(bias, matrix)
    kept = matrix.kept()
    if kept is not None:
        multiply_few(flat, kept, places, biases)
        return out
    for index in range(len(matrix.blocks)):
        weight = matrix.take(index)
        try:
            multiply_few(flat, (weight,), places[index : index + 1], biases[index : index + 1])
        finally:
            del weight  # as above
            matrix.done(index)
    return out


def _flat(x: Tensor) -> Tensor:
    """Return contiguous rows."""
    return x.detach().reshape(-1, x.shape[-1]).contiguous()


def _places(out: Tensor, matrix: Matrix) -> list[tuple[object, int, int]]:
    """Return where in ``out`` (…, rows of the matrix) the results of each block go."""
    memory = buffer(out)
    return [(memory, block.start, matrix.shape[0]) for block in matrix.blocks]


def _parts(bias: Tensor | None, matrix: Matrix) -> list[Tensor | None]:
    """Return the bias of each block."""
    if bias is None:
        return [None] * len(matrix.blocks)
    return [bias[block.start : block.stop] for block in matrix.blocks]


class _Product(torch.autograd.Function):
    """The product with a matrix that is not kept: the backward pass asks for it again."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, bias: Tensor | None, matrix: Matrix
    ) -> Tensor:
        ctx.matrix = matrix  # type: ignore[attr-defined]
        return multiply(x, matrix, bias)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *grads: Tensor
    ) -> tuple[Tensor, None, None]:
        matrix: Matrix = ctx.matrix  # type: ignore[attr-defined]
        (grad,) = grads
        return add_up(grad, matrix, out_of_turn=True), None, None


def placeholder(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return zeros of ``shape`` that take the memory of one."""
    return torch.zeros((), dtype=dtype).expand(*shape)
