"""The types of tensors in GGUF files that are read, by ggml's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.stored import Layout
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAIN = ("F32", "F16", "BF16")
"""Numbers as they are, whose names are safetensors' too."""

PACKED = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "MXFP4": (32, 17),
}
"""Blocks along a row: how many weights, and in how many bytes."""


def layout_of(kind: str) -> Layout | None:
    """Return how the blocks of a type become numbers; None for plain numbers."""
    return None if kind in PLAIN else Layout("ggml", kind, kind)


def row_nbytes(tensor: str, kind: str, shape: Sequence[int]) -> int:
    """Return the bytes of a row of a packed matrix.

    Args:
        tensor: Its name, for messages.
        kind: Its type, one of `PACKED`.
        shape: Its shape.

    Raises:
        UnsupportedModelError: if it is no matrix.
        CheckpointError: if a row is no whole number of blocks.
    """
    if len(shape) != 2:
        raise UnsupportedModelError(
            f"{tensor} of shape {list(shape)} is packed as {kind}; only matrices can be"
        )
    block, nbytes = PACKED[kind]
    if shape[1] % block:
        raise CheckpointError(
            f"{tensor} has rows of {shape[1]}, expected a multiple of {block}: it is {kind}"
        )
    return shape[1] // block * nbytes


def require_known(tensor: str, kind: str) -> None:
    """Refuse a tensor of a type that no kernel takes.

    Raises:
        UnsupportedModelError: naming it, its type and what can be read.
    """
    if kind not in PLAIN and kind not in PACKED:
        raise UnsupportedModelError(
            f"{tensor} is of type {kind}, which cannot be read; "
            f"can be: {', '.join((*PLAIN, *PACKED))}"
        )
