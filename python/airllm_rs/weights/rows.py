"""Rows of an embedding table, read from disk one by one."""

from __future__ import annotations

from math import gcd
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from airllm_rs import _core
from airllm_rs.checkpoint.stored import Layout
from airllm_rs.errors import UnsupportedModelError
from airllm_rs.weights.dtypes import TORCH_DTYPES
from airllm_rs.weights.packed import dequantize_rows, packed_layout

if TYPE_CHECKING:
    from airllm_rs.checkpoint import ModelFiles, StoredPart, StoredWeight, TensorInfo


class RowReader(Protocol):
    """What reads rows of a table, and counts what it reads."""

    bytes_read: int
    calls: int

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows ``ids`` (any shape) in the dtype of the arithmetic."""


def row_reader(files: ModelFiles, name: str, *, compute_dtype: torch.dtype) -> RowReader:
    """Return what reads rows of the table ``name``.

    Raises:
        UnsupportedModelError: if it is packed so that rows cannot be read.
    """
    table = files.stored(name)
    if table.layout is not None:
        return PackedRows(files.files, table, table.layout, compute_dtype=compute_dtype)
    info = table.parts[0].info
    return GatheredRows(files.files[info.file], info, compute_dtype=compute_dtype)


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
        rows = _checked(ids, self._count)
        out = torch.empty((rows.numel(), self._width), dtype=self._stored_dtype)
        if rows.numel():
            nbytes = self._width * out.element_size()
            self.calls += 1
            self.bytes_read += _core.gather_rows(
                self._path, self._offset, nbytes, rows.numpy(), out.view(torch.uint8).numpy()
            )
        return out.to(self._compute_dtype).view(*ids.shape, self._width)


class PackedRows:
    """Reads the rows of a packed table and makes them numbers.

    Each part has bytes of its own for each row, but the scales of blocks that run along the
    flattened table: those of a row may begin within a block that began in the row before.
    """

    def __init__(
        self,
        files: tuple[str, ...],
        table: StoredWeight,
        layout: Layout,
        *,
        compute_dtype: torch.dtype,
    ) -> None:
        self._files = files
        self._count, self._width = table.shape
        self._compute_dtype = compute_dtype
        self._parts = [part for part in table.parts if part.rows == 1]
        shared = [part for part in table.parts if part.rows != 1]
        options = layout.options
        block = options.get("block") if isinstance(options, dict) else None
        self._flat: StoredPart | None = None
        if shared:
            is_flat = layout.kind in ("lut4", "table8") and isinstance(block, int)
            if [part.role for part in shared] != ["scale"] or not is_flat:
                raise UnsupportedModelError(
                    f"{table.name} is packed as {table.dtype}, whose rows cannot be looked up"
                )
            assert isinstance(options, dict), "it has a block"
            assert isinstance(block, int), "as above"
            self._flat = shared[0]
            self._block = block
            self._step = gcd(block, self._width)
            layout = Layout(layout.kind, {**options, "block": self._step}, layout.name)
        self._layout = packed_layout(layout)
        self.bytes_read = 0
        self.calls = 0

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows ``ids`` (any shape) in the dtype of the arithmetic."""
        rows = _checked(ids, self._count)
        out = torch.empty((rows.numel(), self._width), dtype=self._compute_dtype)
        if rows.numel():
            parts: dict[str, tuple[object, int]] = {
                part.role: (
                    self._gather(part.info, rows.numpy(), part.info.nbytes // self._count),
                    0,
                )
                for part in self._parts
            }
            if self._flat is not None:
                parts["scale"] = (self._scales(self._flat.info, rows.numpy()), 0)
            q = parts.pop("q")
            weight = _core.Weight(self._layout, rows.numel(), self._width, q, **parts)
            dequantize_rows(weight, out, 0, rows.numel())
        return out.view(*ids.shape, self._width)

    def _scales(self, scale: TensorInfo, rows: np.ndarray) -> np.ndarray:
        """Return the scales of rows, one for each of the smaller blocks that divide a row."""
        item = scale.nbytes // -(-self._count * self._width // self._block)
        firsts = np.arange(0, self._width, self._step, dtype=np.int64)
        blocks = (rows[:, None] * self._width + firsts) // self._block
        wanted, where = np.unique(blocks, return_inverse=True)
        found = self._gather(scale, wanted, item).reshape(-1, item)
        return np.ascontiguousarray(found[where.reshape(-1)]).reshape(-1)

    def _gather(self, info: TensorInfo, rows: np.ndarray, nbytes: int) -> np.ndarray:
        out = np.empty(len(rows) * nbytes, np.uint8)
        self.calls += 1
        self.bytes_read += _core.gather_rows(
            self._files[info.file], info.offset, nbytes, np.ascontiguousarray(rows), out
        )
        return out


def _checked(ids: torch.Tensor, count: int) -> torch.Tensor:
    rows = ids.reshape(-1).contiguous().to(torch.int64)
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise IndexError(f"token ids must lie in [0, {count})")
    return rows
