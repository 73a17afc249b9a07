"""Softmax attention: what queries take from the keys they see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from airllm_rs import _core
from airllm_rs.weights.packed import FEW_ROWS, KERNEL_CODES, buffer

if TYPE_CHECKING:
    from torch import Tensor

    from airllm_rs.layers.mask import Sight


@dataclass(frozen=True, slots=True)
class Scores:
    """What becomes of the products of queries and keys before the softmax."""

    scale: float | None = None
    """What they are multiplied by; 1 / sqrt(D) if None."""
    softcap: float | None = None
    """They become ``softcap * tanh(score / softcap)``."""
    has_sinks: bool = False
    """Whether each head has the score of a key without a value."""
    slopes: tuple[float, ...] | None = None
    """ALiBi: of each head, what is added to a score for each token that the key is farther back,
    negated."""


PLAIN = Scores()


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sight: Sight,
    scores: Scores = PLAIN,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attend from ``query`` (B, H, T, D) to ``key`` (B, G, S, D) and ``value`` (B, G, S, E).

    Returns the heads of a token side by side, (B, T, H·E). For up to 32 tokens, and where no
    gradient is wanted, the bits of what a token gets depend on its query and the keys it sees
    alone; with ALiBi they do not.
    """
    if sight.origins is not None and scores.slopes is None and _is_for_kernels(query, key, value):
        return _attend_few(query, key, value, sight, scores, sinks)
    batch, heads, tokens, size = query.shape
    groups = key.shape[1]
    if scores.softcap is not None or sinks is not None or scores.slopes is not None:
        return _by_group(query, key, value, sight, scores, sinks)
    mask = sight.mask
    if tokens == 1 and heads != groups:
        # the queries of a group as rows of one product: 0.09 ms where GQA takes 0.68
        # (bf16, 24 heads, 8 groups, 256 keys, 2 cores)
        folded = query.reshape(batch, groups, heads // groups, size)
        out = functional.scaled_dot_product_attention(
            folded, key, value, attn_mask=mask, scale=scores.scale
        )
        return out.reshape(batch, 1, heads * value.shape[-1])
    out = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=sight.is_causal,
        scale=scores.scale,
        enable_gqa=heads != groups,
    )
    return out.transpose(1, 2).reshape(batch, tokens, heads * value.shape[-1])


def capped(scores: Tensor, softcap: float) -> Tensor:
    """Return ``softcap * tanh(score / softcap)``, in place where no gradient is wanted."""
    found = scores.div_(softcap).tanh_()
    # the backward pass of tanh needs what it gave
    return found * softcap if found.requires_grad else found.mul_(softcap)


def _is_for_kernels(query: Tensor, key: Tensor, value: Tensor) -> bool:
    if query.shape[2] > FEW_ROWS or query.dtype not in KERNEL_CODES or not query.is_cpu:
        return False
    if key.dtype is not query.dtype or query.stride(-1) != 1:
        return False
    wants_gradient = query.requires_grad or key.requires_grad or value.requires_grad
    return not (wants_gradient and torch.is_grad_enabled())


def _attend_few(
    query: Tensor, key: Tensor, value: Tensor, sight: Sight, scores: Scores, sinks: Tensor | None
) -> Tensor:
    batch, heads, tokens, size = query.shape
    out = torch.empty((batch, tokens, heads * value.shape[-1]), dtype=query.dtype)
    mask = sight.mask if sight.has_holes else None
    _core.attend(
        buffer(query),
        buffer(key),
        buffer(value),
        buffer(out),
        KERNEL_CODES[query.dtype],
        scale=size**-0.5 if scores.scale is None else scores.scale,
        origins=sight.origins or None,
        window=sight.window,
        mask=None if mask is None else mask.numpy(),
        softcap=scores.softcap,
        sinks=None if sinks is None else buffer(sinks.float()),
    )
    return out


def _by_group(
    query: Tensor, key: Tensor, value: Tensor, sight: Sight, scores: Scores, sinks: Tensor | None
) -> Tensor:
    """Attend with the scores as a tensor, the queries of one key at a time."""
    batch, heads, tokens, size = query.shape
    groups = key.shape[1]
    each = heads // groups
    scale = size**-0.5 if scores.scale is None else scores.scale
    seen = _seen(sight, tokens, key.shape[2])
    distance = _distance(sight, tokens, key.shape[2])
    out = query.new_empty((batch, tokens, heads, value.shape[-1]))
    for group in range(groups):
        first = group * each
        products = query[:, first : first + each] @ key[:, group, None].transpose(-1, -2)
        products = products.float().mul_(scale)
        if scores.softcap is not None:
            products = capped(products, scores.softcap)
        if scores.slopes is not None:
            slopes = torch.tensor(scores.slopes[first : first + each])[:, None, None]
            products = products.add_(slopes * distance)
        products = products.masked_fill(~seen, torch.finfo(torch.float32).min)
        if sinks is None:
            shares = products.softmax(-1)
        else:
            beside = sinks[first : first + each].float()[None, :, None, None]
            beside = beside.expand(batch, each, tokens, 1)
            shares = torch.cat((products, beside), dim=-1).softmax(-1)[..., :-1]
        mixed = shares.to(value.dtype) @ value[:, group, None]
        out[:, :, first : first + each] = mixed.transpose(1, 2)
    return out.view(batch, tokens, heads * value.shape[-1])


def _seen(sight: Sight, tokens: int, keys: int) -> Tensor:
    """Return which keys are seen, (B or 1, 1, T, S)."""
    if sight.mask is not None:
        return sight.mask
    seen = torch.ones(tokens, keys, dtype=torch.bool)
    return (seen.tril(keys - tokens) if sight.is_causal else seen)[None, None]


def _distance(sight: Sight, tokens: int, keys: int) -> Tensor:
    """Return how far back each key is, negated, (T, S) in float32."""
    span = sight.span
    ahead = 0 if span is None else span.start - span.key_start
    query = torch.arange(tokens, dtype=torch.float32)[:, None] + ahead
    return torch.arange(keys, dtype=torch.float32)[None] - query
