"""Token embeddings, from a table in memory or from rows on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from airllm_rs.layers.linear import placeholder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Embedding(nn.Embedding):
    """`nn.Embedding` whose table need not be in memory."""

    def __init__(self, vocab_size: int, hidden_size: int, scale: float | None = None) -> None:
        """Make a layer whose rows are multiplied by ``scale``, rounded to their dtype."""
        super().__init__(vocab_size, hidden_size, device="meta")
        self.scale = scale
        self.rows: Callable[[Tensor], Tensor] | None = None
        self.requires_grad_(requires_grad=False)

    def reset_parameters(self) -> None:
        """Do nothing: the table comes from a checkpoint."""

    def attach(self, rows: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        """Get rows from ``rows``, which maps ids of any shape to rows of ``dtype``."""
        self.rows = rows
        table = placeholder((self.num_embeddings, self.embedding_dim), dtype)
        self.weight = nn.Parameter(table, requires_grad=False)

    def bind(self, table: Tensor) -> None:
        """Look rows up in ``table`` of shape (V, hidden)."""
        self.rows = None
        self.weight = nn.Parameter(table, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows ``ids`` of shape (B, T) as (B, T, hidden)."""
        rows = functional.embedding(ids, self.weight) if self.rows is None else self.rows(ids)
        if self.scale is not None:
            rows *= torch.tensor(self.scale, dtype=rows.dtype)
        return rows
