"""The head of Baichuan 2, whose rows are of length one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from airllm_rs.layers.linear import Linear

if TYPE_CHECKING:
    from torch import Tensor

# What `torch.nn.functional.normalize` divides by at least.
_LEAST = 1e-12


class NormHead(Linear):
    """`Linear` that divides what each row gives by the row's length.

    The lengths are computed when rows first come by, in float32, and kept: four bytes a row.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._lengths: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` of shape (…, in) with the rows, of length one, of shape (out, in)."""
        if self._lengths is None:
            self._lengths = self._measure()
        return (super().forward(x).float() / self._lengths).to(x.dtype)

    def _measure(self) -> Tensor:
        source = self.source
        assert source is not None, "the executor attaches it"
        lengths = torch.empty(source.shape[0])
        for index in range(len(source.blocks)):
            pieces = source.pieces(index, out_of_turn=True)
            try:
                for start, stop, rows in pieces:
                    try:
                        lengths[start:stop] = rows.float().norm(dim=-1)
                    finally:
                        del rows
            finally:
                pieces.close()
                source.done(index)
        return lengths.clamp_(min=_LEAST)
