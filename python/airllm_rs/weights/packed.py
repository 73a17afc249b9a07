"""Between torch's tensors and the kernels, which know buffers and addresses only."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from airllm_rs import _core
from airllm_rs.checkpoint.stored import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FEW_ROWS = 32
"""Up to so many rows, products run on weights as they lie; more are multiplied by torch."""

KERNEL_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Dtypes that kernels take and give, by safetensors' codes."""


def packed_layout(layout: Layout) -> _core.Layout:
    """Return the layout that kernels take; the same object for the same description."""
    return _layout(layout.to_json())


def plain_layout(dtype: str) -> _core.Layout | None:
    """Return the layout of plain numbers of ``dtype``, a code of safetensors.

    None for one that no kernel takes.
    """
    if dtype not in KERNEL_CODES.values():
        return None
    return _layout(Layout("dense", dtype).to_json())


def buffer(tensor: Tensor) -> object:
    """Return the memory of a CPU tensor as an object with the buffer protocol."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def tensor_weight(matrix: Tensor) -> _core.Weight:
    """Return a matrix of plain numbers as a weight, which keeps its memory."""
    rows, cols = matrix.shape
    layout = plain_layout(KERNEL_CODES[matrix.dtype])
    assert layout is not None, "kernels take what they give"
    return _core.Weight(layout, rows, cols, (buffer(matrix), 0))


def dequantize_rows(weight: _core.Weight, out: Tensor, start: int, stop: int) -> None:
    """Write the rows [start, stop) of a weight to ``out``, contiguous, of shape (rows, cols)."""
    _core.dequantize_into(weight, buffer(out), KERNEL_CODES[out.dtype], start, stop)


def multiply_few(
    x: Tensor,
    weights: Sequence[_core.Weight],
    outs: Sequence[tuple[object, int, int]],
    biases: Sequence[Tensor | None],
) -> None:
    """Write ``x @ weight.T + bias`` to ``outs``, summed in float32.

    Args:
        x: Of shape (M, cols), contiguous, M at most `FEW_ROWS`.
        weights: Of shape (n, cols) each.
        outs: For each, a `buffer` of the dtype of ``x``, items before the first result, and items
            from row to row.
        biases: For each, a tensor of shape (n,) or None.
    """
    try:
        _core.linear(
            buffer(x),
            KERNEL_CODES[x.dtype],
            weights,
            outs,
            [None if bias is None else buffer(bias) for bias in biases],
        )
    finally:
        del weights  # not left to a traceback, which would keep their leases


@cache
def _layout(description: str) -> _core.Layout:
    return _core.Layout(description)
