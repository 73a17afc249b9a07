"""A linear layer whose matrix may be in memory or on its way from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from airllm_rs.weights.source import Matrix


class Linear(nn.Linear):
    """`nn.Linear` that asks its weight source for the matrix when it runs and then lets go.

    A matrix of several row blocks is several products, in memory as well as streamed: the bits of
    the result do not depend on what is resident. While the matrix is not bound, ``weight`` is a
    zero-stride placeholder on the device of the arithmetic; whoever looks at its shape, dtype or
    device (PEFT does) sees the truth, whoever multiplies with it gets zeros.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta")
        self.source: Matrix | None = None
        self.requires_grad_(requires_grad=False)

    def reset_parameters(self) -> None:
        """Do nothing: the weights come from a checkpoint."""

    def attach(self, matrix: Matrix, dtype: torch.dtype) -> None:
        """Take the matrix from ``matrix`` whenever the layer runs in ``dtype``."""
        self.source = matrix
        self.weight = nn.Parameter(placeholder(matrix.shape, dtype), requires_grad=False)

    def bind(self, dtype: torch.dtype) -> None:
        """Assign the matrix as a parameter for good, if it is resident and in one piece."""
        source = self.source
        if source is None:
            return
        whole = source.whole()
        if whole is None or whole.dtype != dtype:
            return
        self.weight = nn.Parameter(whole, requires_grad=False)
        if len(source.blocks) == 1:
            self.source = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` of shape (…, in) with the matrix of shape (out, in); add the bias."""
        source = self.source
        if source is None:
            return functional.linear(x, self.weight, self.bias)
        if x.requires_grad and torch.is_grad_enabled():
            return _Product.apply(x, self.bias, source)  # type: ignore[no-any-return]
        return multiply(x, source, self.bias)


def multiply(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    """Multiply ``x`` of shape (…, in) with the row blocks of ``matrix``, into one result."""
    blocks = matrix.blocks
    if len(blocks) == 1:
        weight = matrix.take(0)
        try:
            return functional.linear(x, weight, bias)
        finally:
            # not left to the frame, which a traceback would keep, and the lease with it
            del weight
            matrix.done(0)
    out = x.new_empty((*x.shape[:-1], blocks[-1].stop))
    for index, block in enumerate(blocks):
        rows = None if bias is None else bias[block.start : block.stop]
        weight = matrix.take(index)
        try:
            out[..., block.start : block.stop] = functional.linear(x, weight, rows)
        finally:
            del weight
            matrix.done(index)
    return out


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
        total: Tensor | None = None
        for index, block in enumerate(matrix.blocks):
            weight = matrix.take(index, out_of_turn=True)
            try:
                part = grad[..., block.start : block.stop] @ weight
            finally:
                del weight
                matrix.done(index)
            total = part if total is None else total.add_(part)
        assert total is not None, "a matrix has at least one block"
        return total, None, None


def placeholder(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return zeros of ``shape`` that take the memory of one."""
    return torch.zeros((), dtype=dtype).expand(*shape)
