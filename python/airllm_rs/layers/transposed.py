"""A linear layer whose matrix lies the other way round in the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from airllm_rs.layers.linear import Linear, placeholder

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
        total: Tensor | None = None
        for index in range(len(source.blocks)):
            pieces = source.pieces(index)
            try:
                for start, stop, rows in pieces:
                    try:
                        part = x[..., start:stop] @ rows
                    finally:
                        del rows
                    total = part if total is None else total.add_(part)
            finally:
                pieces.close()
                source.done(index)
        assert total is not None, "a matrix has at least one row"
        return total if self.bias is None else total + self.bias
