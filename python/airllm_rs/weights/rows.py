"""Rows of an embedding table, read from disk one by one, packed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from airllm_rs import _core
from airllm_rs.checkpoint.stored import Q
from airllm_rs.errors import UnsupportedModelError
from airllm_rs.weights.dtypes import TORCH_DTYPES
from airllm_rs.weights.packed import dequantize_rows, packed_layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.checkpoint import StoredWeight


class _Part(NamedTuple):
    """Where a tensor lies whose rows are the table's."""

    role: str
    path: str
    offset: int
    row_nbytes: int


class GatheredRows:
    """Reads the rows of a table that it is asked for, and keeps none."""

    def __init__(
        self, files: Sequence[str], table: StoredWeight, *, compute_dtype: torch.dtype
    ) -> None:
        """Look rows of ``table`` up, which lies in ``files``.

        Raises:
            UnsupportedModelError: if it is packed in a way that rows share what they need.
        """
        if table.layout is not None and any(part.rows != 1 for part in table.parts):
            raise UnsupportedModelError(
                f"{table.name} is packed as {table.dtype}, whose rows cannot be read one by one"
            )
        self._count, self._width = table.shape
        self._parts = [
            _Part(role, files[info.file], info.offset, info.nbytes // self._count)
            for role, _, info, _ in table.parts
        ]
        self._layout = packed_layout(table.layout) if table.layout is not None else None
        self._constants = table.constants
        self._stored_dtype = (
            compute_dtype if table.layout is not None else TORCH_DTYPES[table.dtype]
        )
        self._compute_dtype = compute_dtype
        self.bytes_read = 0
        self.calls = 0

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows ``ids`` (any shape) in the dtype of the arithmetic."""
        rows = ids.reshape(-1).contiguous()
        if not rows.numel():
            return torch.empty((*ids.shape, self._width), dtype=self._compute_dtype)
        if not 0 <= int(rows.min()) <= int(rows.max()) < self._count:
            raise IndexError(f"token ids must lie in [0, {self._count})")
        found = {part.role: self._read(part, rows) for part in self._parts}
        if self._layout is None:
            out = found[Q].view(self._stored_dtype).to(self._compute_dtype)
        else:
            out = self._unpacked(self._layout, found)
        return out.view(*ids.shape, self._width)

    def _read(self, part: _Part, rows: torch.Tensor) -> torch.Tensor:
        content = torch.empty((rows.numel(), part.row_nbytes), dtype=torch.uint8)
        self.calls += 1
        self.bytes_read += _core.gather_rows(
            part.path, part.offset, part.row_nbytes, rows.numpy(), content.numpy()
        )
        return content

    def _unpacked(self, layout: _core.Layout, found: dict[str, torch.Tensor]) -> torch.Tensor:
        parts: dict[str, tuple[object, int]] = {
            role: (constant, 0) for role, constant in self._constants.items()
        }
        parts |= {role: (content.numpy(), 0) for role, content in found.items()}
        count = found[Q].shape[0]
        out = torch.empty((count, self._width), dtype=self._compute_dtype)
        weight = _core.Weight(layout, count, self._width, parts.pop(Q), **parts)
        dequantize_rows(weight, out, 0, count)
        return out
