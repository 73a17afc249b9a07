"""Rows of an embedding table, read from disk one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from airllm_rs import _core
from airllm_rs.weights.dtypes import TORCH_DTYPES

if TYPE_CHECKING:
    from airllm_rs.checkpoint import TensorInfo


class GatheredRows:
    """Reads the rows of a table that it is asked for, and keeps none."""

    def __init__(self, path: str, table: TensorInfo, *, compute_dtype: torch.dtype) -> None:
        self._path = path
        self._offset = table.offset
        self._count, self._width = table.shape
        self._stored_dtype = TORCH_DTYPES[table.dtype]
        self._compute_dtype = compute_dtype
        self.bytes_read = 0
        self.calls = 0

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows ``ids`` (any shape) in the dtype of the arithmetic."""
        rows = ids.reshape(-1).contiguous()
        out = torch.empty((rows.numel(), self._width), dtype=self._stored_dtype)
        if rows.numel():
            if not 0 <= int(rows.min()) <= int(rows.max()) < self._count:
                raise IndexError(f"token ids must lie in [0, {self._count})")
            nbytes = self._width * out.element_size()
            self.calls += 1
            self.bytes_read += _core.gather_rows(
                self._path, self._offset, nbytes, rows.numpy(), out.view(torch.uint8).numpy()
            )
        return out.to(self._compute_dtype).view(*ids.shape, self._width)
