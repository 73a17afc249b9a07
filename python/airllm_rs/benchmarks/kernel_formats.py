"""Random weights of every format that kernels take, as many bytes as wanted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from airllm_rs import _core
from airllm_rs.checkpoint.packed.codebooks import E2M1, NF4

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Parts = dict[str, np.ndarray]
"""The parts of some rows, by role; rows are the first dimension."""

_TILE = 256
"""Rows that are made; the others are copies of them."""
_BLOCKS = {"8bit": 64, "4bit": 32, "4bit-hq": 16, "nf4": 64}


def _lut4(
    codebook: Sequence[float], block: int, scale: str, *, low_first: bool = False
) -> tuple[str, dict[str, object]]:
    options = {"codebook": codebook, "block": block, "scale": scale, "low_first": low_first}
    return "lut4", {**options, "global_divides": False}


_LAYOUTS: dict[str, tuple[str, dict[str, object]]] = {
    "8bit": ("int8", {"block": 64, "scale": "u8_row"}),
    "4bit": _lut4(NF4, 32, "i8_row"),
    "4bit-hq": _lut4(NF4, 16, "i8_row"),
    "nf4": _lut4(NF4, 64, "f32"),
    "fp8": ("fp8", {"is_e5m2": False, "block_rows": 128, "block_cols": 128, "scale": "f32"}),
    "affine4": (
        "affine",
        {"bits": 4, "group": 128, "scale": "F16", "zero": "u8", "has_group_index": False},
    ),
    "mxfp4": _lut4(E2M1, 32, "e8m0", low_first=True),
}
_GGML = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210), "IQ4_NL": (32, 18), "IQ4_XS": (256, 136), "MXFP4": (32, 17),
}  # fmt: skip
_DENSE = {"bf16": ("BF16", 2), "f16": ("F16", 2), "f32": ("F32", 4)}

FORMATS = (*_DENSE, *_LAYOUTS, *_GGML)
"""Every format, in the order in which they are measured."""


@dataclass(frozen=True)
class Made:
    """A weight, and what it takes."""

    weight: _core.Weight
    dtype: str
    """Of the activations beside it, and of results."""
    nbytes: int
    """Of all its parts."""

    @property
    def numbers(self) -> int:
        """How many weights it has."""
        rows, cols = self.weight.shape
        return rows * cols


def make(name: str, cols: int, nbytes: int) -> Made:
    """Return a weight of ``cols`` columns and so many bytes, whole tiles of 256 rows at least."""
    parts = _tile(name, cols)
    tile_bytes = sum(part.nbytes for part in parts.values())
    tiles = max(-(-nbytes // tile_bytes), 1)
    whole = {
        role: np.tile(part, (tiles, *(1,) * (part.ndim - 1))).view(np.uint8).reshape(-1)
        for role, part in parts.items()
    }
    held: dict[str, tuple[object, int]] = {role: (part, 0) for role, part in whole.items()}
    layout = _core.Layout(json.dumps(layout_of(name)))
    q = held.pop("q")
    weight = _core.Weight(layout, tiles * _TILE, cols, q, **held)
    dtype = _DENSE[name][0] if name in _DENSE else "BF16"
    return Made(weight, dtype, tile_bytes * tiles)


def layout_of(name: str) -> dict[str, object]:
    """Return what ``_core.Layout`` is made of, before it is JSON."""
    if name in _GGML:
        return {"kind": "ggml", "options": name}
    if name in _DENSE:
        return {"kind": "dense", "options": _DENSE[name][0]}
    kind, options = _LAYOUTS[name]
    return {"kind": kind, "options": options}


def _tile(name: str, cols: int) -> Parts:
    random = np.random.default_rng(0)
    if name in _DENSE:
        return {"q": _small_floats(random, (_TILE, cols * _DENSE[name][1]))}
    if name in _GGML:
        block, size = _GGML[name]
        return {"q": _small_floats(random, (_TILE, cols // block * size))}
    if name in _BLOCKS:
        return _encoded(name, cols, random)
    return _OTHERS[name](cols, random)


def _small_floats(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return bytes that are finite numbers below two as floats of any size."""
    found: np.ndarray = random.integers(0, 256, shape, np.uint8) & 0x3F
    return found


def _encoded(name: str, cols: int, random: np.random.Generator) -> Parts:
    values = random.standard_normal((_TILE, cols), np.float32)
    is_nf4 = name == "nf4"
    q = np.empty((_TILE, cols if name == "8bit" else cols // 2), np.uint8)
    scale = np.empty((_TILE, cols // _BLOCKS[name]), np.float32 if is_nf4 else np.uint8)
    row = None if is_nf4 else np.empty(_TILE, np.float32)
    _core.quantize(values, "F32", _TILE, cols, name, q, scale, row, "fast")
    return {"q": q, "scale": scale} if row is None else {"q": q, "scale": scale, "row": row}


def _fp8(cols: int, random: np.random.Generator) -> Parts:
    scale = random.random((_TILE // 128, -(-cols // 128)), np.float32)
    return {"q": _small_floats(random, (_TILE, cols)), "scale": scale}


def _affine4(cols: int, random: np.random.Generator) -> Parts:
    groups = -(-cols // 128)
    return {
        "q": random.integers(0, 256, (_TILE, cols // 2), np.uint8),
        "scale": random.random((_TILE, groups), np.float32).astype(np.float16),
        "zero": random.integers(0, 16, (_TILE, groups), np.uint8),
    }


def _mxfp4(cols: int, random: np.random.Generator) -> Parts:
    return {
        "q": random.integers(0, 256, (_TILE, cols // 2), np.uint8),
        "scale": random.integers(110, 130, (_TILE, cols // 32), np.uint8),
    }


_OTHERS: dict[str, Callable[[int, np.random.Generator], Parts]] = {
    "fp8": _fp8,
    "affine4": _affine4,
    "mxfp4": _mxfp4,
}
