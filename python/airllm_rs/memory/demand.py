"""What a run takes beside its weights: KV cache, activations, scratch."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.stored import Q
from airllm_rs.memory.arithmetic import ITEM_BYTES

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family
    from airllm_rs.memory.units import UnitTable

# A window's cache holds this much more than queries see, so as not to be moved at every token.
_WINDOW_SLACK = 256
SCRATCH_BYTES = 32 << 20
"""Numbers of the arithmetic's dtype that rows of a matrix are turned into at a time."""

# Reads of single embedding rows are widened and pass through a buffer of the extension.
_GATHER_BYTES = 16 << 20
# float32 logits, their sorted copy and indexes, probabilities, and what is masked of them.
_LOGIT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Shape:
    """How much is run at once, and in what."""

    context: int
    """Tokens of a sequence that the KV cache holds."""
    max_num_seqs: int
    chunk_tokens: int
    """Tokens of all sequences that pass a layer together."""
    compute_dtype: str

    @property
    def rows(self) -> int:
        """Tokens that are in one module at a time."""
        chunk = min(self.chunk_tokens, self.context * self.max_num_seqs)
        return max(chunk, self.max_num_seqs)

    @property
    def item(self) -> int:
        """Bytes of one number."""
        return ITEM_BYTES[self.compute_dtype]


def kv_bytes(config: ModelConfig, family: Family, shape: Shape) -> int:
    """Return what keys and values take, a sliding layer no more than its window needs."""
    tokens = 0
    for window in config.windows:
        most = shape.context
        if window is not None:
            most = min(most, window + shape.rows + _WINDOW_SLACK)
        tokens += most
    return tokens * shape.max_num_seqs * family.kv_bytes_per_layer(config, shape.item)


def activation_bytes(
    config: ModelConfig, family: Family, shape: Shape, *, layer_major: bool
) -> int:
    """Return the most that hidden states, one module's tensors and logits take at a time.

    Layer-major, the hidden states of all chunks wait for the next layer.
    """
    rows, item = shape.rows, shape.item
    hidden = config.hidden_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    waiting = shape.context * shape.max_num_seqs if layer_major else rows
    # hidden states, and the cosines and sines of their positions
    between = waiting * (hidden + 2 * config.head_dim) * item
    norm = rows * hidden * (2 * item + 8)  # in float32, and its result
    # queries before and after rotation, one copy on the way, the heads' output; keys and values
    attention = rows * (4 * queries + 3 * keys + hidden) * item
    # a boolean mask, the comparisons that make it, and the float mask that SDPA turns it into
    mask = rows * shape.context * (4 + item)
    mask += shape.context * family.expanded_width(config) * item
    # scores of some heads in float32, capped, and as probabilities, where no kernel keeps them
    mask += rows * shape.context * family.scores_heads(config) * 16
    mlp = rows * (3 * family.inner_width(config) + hidden) * item
    logits = shape.max_num_seqs * config.vocab_size * (item + _LOGIT_BYTES)
    module = rows * hidden * item + max(norm, attention + mask, mlp, logits)
    # what the allocator keeps and the kernels' own scratch: up to 1.5 of it measured (hidden 3072,
    # chunks of 512 tokens, bf16 and f32, 512 and 4096 tokens of context)
    return (between + module) * 3 // 2


def scratch_bytes(table: UnitTable, shape: Shape) -> int:
    """Return what is needed to convert weights at use and to gather rows of the embedding.

    Small tensors are converted for good, matrices block by block of their rows. What is packed
    across rows is repacked one matrix at a time.
    """
    small = 0
    largest = 0
    repacked: dict[str, int] = {}
    always, looked_up = set(table.always), set(table.embedding)
    for unit in table.units:
        for piece in unit.pieces:
            if piece.repacked_nbytes:
                before = repacked.get(piece.weight, 0)
                repacked[piece.weight] = before + piece.repacked_nbytes
            if piece.role != Q or unit.index in looked_up:
                continue
            if piece.is_plain and unit.index in always:
                small += prod(piece.shape) * shape.item if piece.dtype != shape.compute_dtype else 0
            elif piece.dtype != shape.compute_dtype:
                largest = SCRATCH_BYTES
    return small + largest + max(repacked.values(), default=0) + _GATHER_BYTES


def converted_bytes(table: UnitTable, compute_dtype: str) -> int:
    """Return what the matrices of a sweep take once plain numbers are of the dtype of arithmetic.

    Packed weights stay packed.
    """
    total = table.nbytes(table.order)
    for index in table.order:
        for piece in table.units[index].pieces:
            # while they are converted one by one, some still lie there as they are stored
            if piece.is_plain:
                total += max(prod(piece.shape) * ITEM_BYTES[compute_dtype] - piece.nbytes, 0)
    return total
