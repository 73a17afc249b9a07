"""How far the header of a GGUF file reaches, told by its beginning."""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from airllm_rs.checkpoint.gguf.names import ROPE_FACTORS
from airllm_rs.errors import CheckpointError

_HEAD = Struct("<4sIQQ")
_U32, _U64 = Struct("<I"), Struct("<Q")
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of the metadata's types of numbers, by ggml's codes."""
_STRING, _ARRAY = 8, 9
_ALIGNMENT = "general.alignment"
_MOST_DIMENSIONS = 4
_F32 = 0


class Extent(NamedTuple):
    """What of a file has to be read to know what is in it."""

    header: int
    """Bytes before the data."""
    factors: tuple[int, int] | None
    """Start and end of the RoPE factors in the file, None where it has none."""


class _Short(Exception):
    """More of the file is needed."""


def header_extent(content: bytes) -> Extent | None:
    """Return how far a header reaches; None if further than ``content``, the file's beginning.

    Raises:
        CheckpointError: if it is no header.
    """
    try:
        return _walk(content)
    except (_Short, StructError):
        return None


def _walk(content: bytes) -> Extent:
    magic, version, tensors, keys = _HEAD.unpack_from(content, 0)
    if magic != b"GGUF" or not 2 <= version <= 3:
        raise CheckpointError("it is no GGUF file of version 2 or 3")
    at, alignment = _HEAD.size, 32
    for _ in range(keys):
        name, at = _text(content, at)
        (kind,) = _U32.unpack_from(content, at)
        if name == _ALIGNMENT.encode() and kind == 4:
            (alignment,) = _U32.unpack_from(content, at + 4)
        at = _after_value(content, at + 4, kind)
    factors: tuple[int, int] | None = None
    for _ in range(tensors):
        name, at = _text(content, at)
        (dimensions,) = _U32.unpack_from(content, at)
        if dimensions > _MOST_DIMENSIONS:
            raise CheckpointError(f"a tensor has {dimensions} dimensions")
        (size,) = _U64.unpack_from(content, at + 4) if dimensions else (0,)
        at += 4 + 8 * dimensions
        kind, offset = *_U32.unpack_from(content, at), *_U64.unpack_from(content, at + 4)
        at += 12
        if name == ROPE_FACTORS.encode() and kind == _F32:
            factors = offset, offset + 4 * size
    if not 0 < alignment <= 1 << 16:
        raise CheckpointError(f"{_ALIGNMENT} is {alignment}")
    header = at + -at % alignment
    return Extent(header, None if factors is None else (header + factors[0], header + factors[1]))


def _text(content: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _U64.unpack_from(content, at)
    end = at + 8 + length
    if end > len(content):
        raise _Short
    return content[at + 8 : end], end


def _after_value(content: bytes, at: int, kind: int) -> int:
    if kind == _STRING:
        return _text(content, at)[1]
    if kind != _ARRAY:
        if kind not in _WIDTHS:
            raise CheckpointError(f"its metadata has a value of type {kind}")
        return at + _WIDTHS[kind]
    item: int = _U32.unpack_from(content, at)[0]
    count: int = _U64.unpack_from(content, at + 4)[0]
    at += 12
    if item in _WIDTHS:
        return at + _WIDTHS[item] * count
    if item != _STRING:
        raise CheckpointError(f"its metadata has a list of type {item}")
    unpack = _U64.unpack_from
    for _ in range(count):
        at += 8 + unpack(content, at)[0]
    return at
