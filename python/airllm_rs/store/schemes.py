"""Which tensors are encoded, with which scheme, and the bytes that makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airllm_rs.checkpoint.stored import TensorInfo
    from airllm_rs.families import Layer

SCHEMES = ("8bit", "4bit", "4bit-hq", "nf4")
"""What ``compression=`` may be, beside None."""

BLOCK = {"8bit": 64, "4bit": 32, "4bit-hq": 16, "nf4": 64}
"""Weights that share a scale."""
# Both sides of a matrix, below which the scales' share and the error are not worth it.
_LEAST = 256
_FLOATS = ("F32", "BF16", "F16")
# Few weights that decide much: which expert, which position.
_NEVER = ("mlp.gate.weight", ".router.", "block_sparse_moe.gate", "conv", "rotary", "embed", "norm")
# bitsandbytes' codebook and the JSON beside it.
_NF4_STATE_BYTES = 64 + 256


def check_scheme(name: str | None) -> str | None:
    """Return the scheme of this name.

    Raises:
        ValueError: if there is none; lists those that exist.
    """
    if name is not None and name not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise ValueError(f"compression={name!r} does not exist: use {known}, or leave it out")
    return name


def scheme_of(layer: Layer, name: str, info: TensorInfo, compression: str | None) -> str | None:
    """Return what a tensor is encoded with, None if it stays as it is.

    Args:
        layer: The layer that it is of.
        name: Its name.
        info: What the source has.
        compression: The scheme of the store.
    """
    if compression is None or layer.kind not in ("decoder", "head"):
        return None
    scheme = compression
    if layer.kind == "head":
        if compression == "nf4":
            return None  # bitsandbytes cannot read our int8
        scheme = "8bit"
    elif any(part in name for part in _NEVER):
        return None
    is_matrix = (
        name.endswith(".weight")
        and len(info.shape) == 2
        and min(info.shape) >= _LEAST
        and info.shape[1] % BLOCK[scheme] == 0
        and info.dtype in _FLOATS
    )
    return scheme if is_matrix else None


def encoded_bytes(shape: tuple[int, ...], scheme: str) -> int:
    """Return the bytes of the parts of an encoded matrix."""
    rows, cols = shape
    blocks = rows * cols // BLOCK[scheme]
    if scheme == "nf4":
        return rows * cols // 2 + 4 * blocks + _NF4_STATE_BYTES
    codes = rows * cols if scheme == "8bit" else rows * cols // 2
    return codes + blocks + 4 * rows


def describe(compression: str | None) -> dict[str, object]:
    """Return what the headers of a store's files say about its scheme."""
    if compression is None:
        return {"name": None}
    head = None if compression == "nf4" else "8bit"
    return {"name": compression, "block": BLOCK[compression], "lm_head": head}
