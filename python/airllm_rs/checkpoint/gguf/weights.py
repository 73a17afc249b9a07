"""The weights of a GGUF file, dequantised in blocks of rows and rounded to bf16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airllm_rs.checkpoint.gguf.source import read_floats
from airllm_rs.checkpoint.writing import PlannedTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    import numpy.typing as npt

    from airllm_rs.checkpoint.gguf.names import Match
    from airllm_rs.checkpoint.gguf.source import Floats

# In float32; dequantising takes about six times as much meanwhile.
_BLOCK_BYTES = 8 << 20

_QUIET_NAN = 0x7FC0


def plan_tensors(file: BinaryIO, matches: Sequence[Match]) -> list[PlannedTensor]:
    """Return what will be written: bf16, and float32 for vectors that bf16 would round.

    Norms and biases are float32 in these files and small; what most of them hold came from bf16.
    """
    planned = []
    for match in matches:
        shape = match.stored.shape
        is_rounded = len(shape) == 1 and not _is_exact(read_floats(file, match.stored))
        planned.append(PlannedTensor(match.name, "F32" if is_rounded else "BF16", shape))
    return planned


def blocks_of(
    file: BinaryIO, matches: Sequence[Match], head_dim: int
) -> Callable[[PlannedTensor], Iterator[memoryview]]:
    """Return what gives the bytes of a planned tensor, block by block."""
    by_name = {match.name: match for match in matches}

    def blocks(planned: PlannedTensor) -> Iterator[memoryview]:
        for floats in _floats(file, by_name[planned.name], head_dim):
            block = floats if planned.dtype == "F32" else to_bf16(floats)
            yield np.ascontiguousarray(block).data.cast("B")

    return blocks


def to_bf16(floats: Floats) -> npt.NDArray[np.uint16]:
    """Return the bits of ``floats`` as bf16, rounded to the nearest, ties to even."""
    bits = floats.view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    rounded[np.isnan(floats)] = _QUIET_NAN
    return rounded


def _floats(file: BinaryIO, match: Match, head_dim: int) -> Iterator[Floats]:
    stored = match.stored
    if len(stored.shape) == 1:
        floats = read_floats(file, stored)
        yield _unpermuted(floats[:, None], head_dim)[:, 0] if match.is_permuted else floats
        return
    rows, columns = stored.shape
    step = max(1, _BLOCK_BYTES // (4 * columns))
    if match.is_permuted:  # whole heads
        step = max(step // head_dim, 1) * head_dim
    for start in range(0, rows, step):
        floats = read_floats(file, stored, start, min(start + step, rows))
        yield _unpermuted(floats, head_dim) if match.is_permuted else floats


def _unpermuted(rows: Floats, head_dim: int) -> Floats:
    """Return rows of whole heads with the halves apart that llama.cpp interleaves."""
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _is_exact(floats: Floats) -> bool:
    return not np.any(floats.view(np.uint32) & 0xFFFF)
