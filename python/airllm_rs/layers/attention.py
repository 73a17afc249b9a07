"""Grouped-query self-attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import nn

from airllm_rs.layers.linear import Linear, multiply_together
from airllm_rs.layers.mask import Sight
from airllm_rs.layers.rope import first_keys, rotate
from airllm_rs.layers.scores import PLAIN, Scores, attend

if TYPE_CHECKING:
    from collections.abc import Callable

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
    norm: Callable[[int], nn.Module] | None = None
    """Makes the norms of queries and keys, given the items of a head; None if there are none."""
    window: int | None = None
    """How many of the latest keys a query sees, itself included; None for all."""
    fused: Literal["no", "thirds", "groups"] = "no"
    """How queries, keys and values lie in one matrix: all queries, then all keys, then all values;
    or for each key its queries, itself and its value. ``"no"`` for a matrix each."""
    turns: bool = True
    """Whether queries and keys are turned by their positions (RoPE)."""
    scores: Scores = PLAIN

    @property
    def queries(self) -> int:
        """Rows of the query projection."""
        return self.num_heads * self.head_dim

    @property
    def keys(self) -> int:
        """Rows of the key projection, and of that of values."""
        return self.num_key_value_heads * self.head_dim


@dataclass(slots=True)
class Context:
    """What one chunk of tokens brings to each layer beside its hidden states."""

    rotation: Rotation | None = None
    sight: Sight = field(default_factory=Sight)
    cache: KeyValueStore | None = None


class Attention(nn.Module):
    """Softmax attention over the keys of the cache and of the tokens at hand."""

    def __init__(self, shape: AttentionShape, index: int) -> None:
        super().__init__()
        self.shape = shape
        self.index = index
        hidden, bias = shape.hidden_size, shape.qkv_bias
        self.qkv_proj: Linear | None = None
        if shape.fused == "no":
            self.q_proj = Linear(hidden, shape.queries, bias=bias)
            self.k_proj = Linear(hidden, shape.keys, bias=bias)
            self.v_proj = Linear(hidden, shape.keys, bias=bias)
        else:
            self.qkv_proj = Linear(hidden, shape.queries + 2 * shape.keys, bias=bias)
        self.o_proj = Linear(shape.queries, hidden, bias=shape.output_bias)
        self.q_norm: nn.Module | None = None
        self.k_norm: nn.Module | None = None
        if shape.norm is not None:
            self.q_norm = shape.norm(shape.head_dim)
            self.k_norm = shape.norm(shape.head_dim)
        self.sinks: nn.Parameter | None = None
        if shape.scores.has_sinks:
            sinks = torch.empty(shape.num_heads, device="meta")
            self.sinks = nn.Parameter(sinks, requires_grad=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Attend from ``x`` of shape (B, T, hidden); return the same shape."""
        query, key, value = self._projections(x)
        if self.q_norm is not None and self.k_norm is not None:
            query = self.q_norm(query)
            key = self.k_norm(key)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        rotation = context.rotation if self.shape.turns else None
        if rotation is not None:
            query = rotate(query, rotation)
            if rotation.gain is not None:
                query = query * rotation.gain
            if rotation.keys is None:
                key = rotate(key, rotation)
        if context.cache is not None:
            key, value = context.cache.update(key, value, self.index)
        if rotation is not None and rotation.keys is not None:
            key = rotate(key, first_keys(rotation.keys, key.shape[2]))
        mixed = attend(query, key, value, context.sight, self.shape.scores, self.sinks)
        return self.o_proj(mixed)  # type: ignore[no-any-return]

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, T, H, D), keys and values (B, T, G, D)."""
        shape = self.shape
        heads = (*x.shape[:2], -1, shape.head_dim)
        if self.qkv_proj is None:
            parts = multiply_together(x, (self.q_proj, self.k_proj, self.v_proj))
        elif shape.fused == "thirds":
            parts = list(self.qkv_proj(x).split((shape.queries, shape.keys, shape.keys), dim=-1))
        else:
            each = shape.num_heads // shape.num_key_value_heads
            groups = self.qkv_proj(x).view(
                *x.shape[:2], shape.num_key_value_heads, each + 2, shape.head_dim
            )
            return groups[..., :each, :].flatten(2, 3), groups[..., -2, :], groups[..., -1, :]
        query, key, value = (part.view(heads) for part in parts)
        return query, key, value
