"""A linear layer whose matrix lies the other way round in the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from airllm_rs.layers.linear import Linear, add_up, multiply_many, placeholder

if TYPE_CHECKING:
    from torch import Tensor

    from airllm_rs.weights.source import Matrix


class TransposedLinear(Linear):
    """`Linear` with a matrix of shape (in, out), whose row blocks are summed."""

    def attach(self, matrix: Matrix, dtype: torch.dtype) -> None:
        """Take the matrix from ``matrix`` whenever the layer runs in ``dtype``."""
        super().attach(matrix, dtype)
        self.weight = torch.nn.Parameter(
            placeholder((self.out_features, self.in_features), dtype), requires_grad=False
        )

    def bind(self, dtype: torch.dtype) -> None:
        """Leave the matrix where it is."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` of shape (…, in) with the matrix; add the bias."""
        source = self.source
        assert source is not None, "the executor attaches it"
        if x.requires_grad and torch.is_grad_enabled():
            product: Tensor = _Product.apply(x, source)
        else:
            product = add_up(x, source)
        return product if self.bias is None else product + self.bias


class _Product(torch.autograd.Function):
    """The product with a matrix that is not kept: the backward pass asks for it again."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, matrix: Matrix) -> Tensor:
        ctx.matrix = matrix  # type: ignore[attr-defined]
        return add_up(x, matrix)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        matrix: Matrix = ctx.matrix  # type: ignore[attr-defined]
        (grad,) = grads
        return multiply_many(grad, matrix, None, out_of_turn=True), None
