"""Multi-head latent attention: the cache holds what keys and values are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from airllm_rs.layers.linear import Linear, numbers
from airllm_rs.layers.norm import RMSNorm
from airllm_rs.layers.rope import rotate
from airllm_rs.layers.scores import Scores, attend

if TYPE_CHECKING:
    from torch import Tensor

    from airllm_rs.layers.attention import Context

# Up to so many tokens, moving queries to where the cache is costs less than the other way round:
# with the published sizes, 1088 products for each token, key and head, against 320 and 131072 for
# each key and head once.
_FEW = 128
_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class LatentShape:
    """The sizes of latent attention."""

    hidden_size: int
    num_heads: int
    nope: int
    """Items of a head's queries and keys that are not turned."""
    rope: int
    """Items that are; those of the keys are shared by all heads."""
    value: int
    latent: int
    """Items of what keys and values are made of."""
    query_latent: int | None
    """The same for queries; None if they are made of hidden states."""
    bias: bool
    scale: float
    is_split: bool = False
    """Whether keys are made by a matrix of their own, of shape (heads · latent, nope): from items
    of keys to latents; and values by another."""


class LatentAttention(nn.Module):
    """Attention of DeepSeek V2 and V3 (https://arxiv.org/abs/2405.04434, section 2.1)."""

    def __init__(self, shape: LatentShape, index: int) -> None:
        super().__init__()
        self.shape = shape
        self.index = index
        hidden, heads = shape.hidden_size, shape.num_heads
        queries = heads * (shape.nope + shape.rope)
        self.q_a_proj: Linear | None = None
        if shape.query_latent is None:
            self.q_proj = Linear(hidden, queries, bias=False)
        else:
            self.q_a_proj = Linear(hidden, shape.query_latent, bias=shape.bias)
            self.q_a_layernorm = RMSNorm(shape.query_latent, _EPS)
            self.q_b_proj = Linear(shape.query_latent, queries, bias=False)
        self.kv_a_proj_with_mqa = Linear(hidden, shape.latent + shape.rope, bias=shape.bias)
        self.kv_a_layernorm = RMSNorm(shape.latent, _EPS)
        self.kv_b_proj: Linear | None = None
        if shape.is_split:
            self.k_b_proj = Linear(shape.nope, heads * shape.latent, bias=False)
            self.v_b_proj = Linear(shape.latent, heads * shape.value, bias=False)
        else:
            self.kv_b_proj = Linear(shape.latent, heads * (shape.nope + shape.value), bias=False)
        self.o_proj = Linear(heads * shape.value, hidden, bias=shape.bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Attend from ``x`` of shape (B, T, hidden); return the same shape."""
        shape, rotation = self.shape, context.rotation
        assert rotation is not None, "the executor sets it"
        if self.q_a_proj is None:
            queries = self.q_proj(x)
        else:
            queries = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        queries = queries.view(*x.shape[:2], shape.num_heads, -1).transpose(1, 2)
        query, turned = queries.split((shape.nope, shape.rope), dim=-1)
        turned = rotate(turned, rotation)
        latent, key = self.kv_a_proj_with_mqa(x).split((shape.latent, shape.rope), dim=-1)
        latent = self.kv_a_layernorm(latent)[:, None]
        key = rotate(key[:, None], rotation)
        if context.cache is not None:
            latent, key = context.cache.update(latent, key, self.index)
        # a gradient would keep the matrix, which may be streamed
        wants_gradient = x.requires_grad and torch.is_grad_enabled()
        if x.shape[1] <= _FEW and not wants_gradient:
            mixed = self._in_latent_space(query, turned, latent, key, context)
        else:
            mixed = self._in_heads(query, turned, latent, key, context)
        return self.o_proj(mixed)  # type: ignore[no-any-return]

    def _in_latent_space(
        self, query: Tensor, turned: Tensor, latent: Tensor, key: Tensor, context: Context
    ) -> Tensor:
        """Attend with queries made such that the latents are the keys, and the values."""
        shape = self.shape

        def attended(moved: Tensor) -> Tensor:
            moved = torch.cat((moved, turned), dim=-1)
            seen = torch.cat((latent, key), dim=-1)
            mixed = attend(moved, seen, latent, context.sight, Scores(scale=shape.scale))
            return mixed.view(*mixed.shape[:2], shape.num_heads, shape.latent).transpose(1, 2)

        values: Tensor
        if self.kv_b_proj is None:
            with numbers(self.k_b_proj) as matrix:
                moved = query @ matrix.view(shape.num_heads, shape.latent, -1).transpose(1, 2)
                del matrix
            mixed = attended(moved)
            with numbers(self.v_b_proj) as matrix:
                to_value = matrix.view(shape.num_heads, shape.value, -1)
                values = mixed @ to_value.transpose(1, 2)
                del matrix, to_value
        else:
            with numbers(self.kv_b_proj) as matrix:
                parts = matrix.view(shape.num_heads, shape.nope + shape.value, shape.latent)
                to_key, to_value = parts[:, : shape.nope], parts[:, shape.nope :]
                values = attended(query @ to_key) @ to_value.transpose(1, 2)
                del matrix, parts, to_key, to_value
        return values.transpose(1, 2).flatten(2)

    def _in_heads(
        self, query: Tensor, turned: Tensor, latent: Tensor, key: Tensor, context: Context
    ) -> Tensor:
        """Attend with the keys and values of each head."""
        shape = self.shape
        heads = (*latent[:, 0].shape[:2], shape.num_heads, -1)
        if self.kv_b_proj is None:
            with numbers(self.k_b_proj) as matrix:
                keys = latent @ matrix.view(shape.num_heads, shape.latent, -1)
                del matrix
            values = self.v_b_proj(latent[:, 0]).view(heads).transpose(1, 2)
        else:
            made = self.kv_b_proj(latent[:, 0]).view(heads)
            keys, values = made.transpose(1, 2).split((shape.nope, shape.value), dim=-1)
        keys = torch.cat((keys, key.expand(-1, shape.num_heads, -1, -1)), dim=-1)
        queries = torch.cat((query, turned), dim=-1)
        return attend(queries, keys, values, context.sight, Scores(scale=shape.scale))
