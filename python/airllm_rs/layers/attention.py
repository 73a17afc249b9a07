"""Grouped-query self-attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from torch.nn import functional

from airllm_rs import _core
from airllm_rs.layers.linear import Linear, multiply_together
from airllm_rs.layers.mask import Sight
from airllm_rs.layers.norm import RMSNorm
from airllm_rs.layers.rope import rotate
from airllm_rs.weights.packed import FEW_ROWS, KERNEL_CODES, buffer

if TYPE_CHECKING:
    from torch import Tensor

    from airllm_rs.layers.rope import Rotation


class KeyValueStore(Protocol):
    """What attention needs of a KV cache: one of ours, or one of transformers'."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, G, T, D) of a layer; return those that queries may see."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What distinguishes the attention of one family or layer from that of another."""

    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    norm_eps: float | None = None
    """Normalise queries and keys per head with this epsilon."""
    window: int | None = None
    """How many of the latest keys a query sees, itself included; None for all."""


@dataclass(slots=True)
class Context:
    """What one chunk of tokens brings to each layer beside its hidden states."""

    rotation: Rotation
    sight: Sight = field(default_factory=Sight)
    cache: KeyValueStore | None = None


class Attention(nn.Module):
    """Softmax attention over the keys of the cache and of the tokens at hand."""

    def __init__(self, shape: AttentionShape, index: int) -> None:
        super().__init__()
        self.shape = shape
        self.index = index
        queries = shape.num_heads * shape.head_dim
        keys = shape.num_key_value_heads * shape.head_dim
        self.q_proj = Linear(shape.hidden_size, queries, bias=shape.qkv_bias)
        self.k_proj = Linear(shape.hidden_size, keys, bias=shape.qkv_bias)
        self.v_proj = Linear(shape.hidden_size, keys, bias=shape.qkv_bias)
        self.o_proj = Linear(queries, shape.hidden_size, bias=shape.output_bias)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if shape.norm_eps is not None:
            self.q_norm = RMSNorm(shape.head_dim, shape.norm_eps)
            self.k_norm = RMSNorm(shape.head_dim, shape.norm_eps)
        self._head_dim = shape.head_dim

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Attend from ``x`` of shape (B, T, hidden); return the same shape."""
        heads = (*x.shape[:2], -1, self._head_dim)
        queries, keys, values = multiply_together(x, (self.q_proj, self.k_proj, self.v_proj))
        query = queries.view(heads)
        key = keys.view(heads)
        value = values.view(heads).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query)
            key = self.k_norm(key)
        query = rotate(query.transpose(1, 2), context.rotation)
        key = rotate(key.transpose(1, 2), context.rotation)
        if context.cache is not None:
            key, value = context.cache.update(key, value, self.index)
        return self.o_proj(attend(query, key, value, context.sight))  # type: ignore[no-any-return]


def attend(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Tensor:
    """Attend from ``query`` (B, H, T, D) to ``key`` and ``value`` (B, G, S, D); (B, T, H·D).

    Returns the heads of a token side by side. For up to 32 tokens, and where no gradient is wanted,
    the bits of what a token gets depend on its query and the keys it sees alone.
    """
    if sight.origins is not None and _is_for_kernels(query, key, value):
        return _attend_few(query, key, value, sight)
    batch, heads, tokens, size = query.shape
    groups = key.shape[1]
    mask = sight.mask
    if tokens == 1 and heads != groups:
        # the queries of a group as rows of one product: 0.09 ms where GQA takes 0.68
        # (bf16, 24 heads, 8 groups, 256 keys, 2 cores)
        folded = query.reshape(batch, groups, heads // groups, size)
        out = functional.scaled_dot_product_attention(folded, key, value, attn_mask=mask)
        return out.reshape(batch, 1, heads * size)
    out = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=sight.is_causal,
        enable_gqa=heads != groups,
    )
    return out.transpose(1, 2).reshape(batch, tokens, heads * size)


def _is_for_kernels(query: Tensor, key: Tensor, value: Tensor) -> bool:
    if query.shape[2] > FEW_ROWS or query.dtype not in KERNEL_CODES or not query.is_cpu:
        return False
    if key.dtype is not query.dtype or query.stride(-1) != 1:
        return False
    wants_gradient = query.requires_grad or key.requires_grad or value.requires_grad
    return not (wants_gradient and torch.is_grad_enabled())


def _attend_few(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Tensor:
    batch, heads, tokens, size = query.shape
    out = torch.empty((batch, tokens, heads * size), dtype=query.dtype)
    mask = sight.mask if sight.has_holes else None
    _core.attend(
        buffer(query),
        buffer(key),
        buffer(value),
        buffer(out),
        KERNEL_CODES[query.dtype],
        scale=size**-0.5,
        origins=sight.origins or None,
        window=sight.window,
        mask=None if mask is None else mask.numpy(),
    )
    return out
