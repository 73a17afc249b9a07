"""The arithmetic of decoder layers in numpy float64, each step as its paper has it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Divide the last axis by its root mean square, and weigh it."""
    unit: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    return unit * weight


def silu(x: Array) -> Array:
    gated: Array = x / (1 + np.exp(-x))
    return gated


def angles(positions: Array, dims: int, theta: Array) -> Array:
    """Return the angles (B, T, 1, dims / 2) of ``positions`` (T,), given a base per sequence."""
    exponents = np.arange(0, dims, 2) / dims
    frequencies = theta[:, None] ** -exponents
    turned: Array = positions[None, :, None, None] * frequencies[:, None, None, :]
    return turned


def rotate_halves(x: Array, turned: Array) -> Array:
    """Turn dimension i of ``x`` (B, T, H, D) together with i + D / 2."""
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(turned), np.sin(turned)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rotate_pairs(x: Array, turned: Array) -> Array:
    """Turn dimensions 2i and 2i + 1 of ``x`` (B, T, H, D); those beyond the angles pass through."""
    cos, sin = np.cos(turned), np.sin(turned)
    dims = 2 * turned.shape[-1]
    out = x.copy()
    even, odd = x[..., 0:dims:2], x[..., 1:dims:2]
    out[..., 0:dims:2] = even * cos - odd * sin
    out[..., 1:dims:2] = odd * cos + even * sin
    return out


def alibi_slopes(heads: int) -> Array:
    """Return one slope per head: a geometric series, the odd terms of the next one after it."""
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
    return np.array(slopes)


def attend(q: Array, k: Array, v: Array, visible: NDArray[np.bool_], bias: Array) -> Array:
    """Return attention (B, T, H * D).

    Args:
        q: Queries (B, T, H, D).
        k: Keys (B, S, G, D); G divides H.
        v: Values (B, S, G, D).
        visible: Which keys a query sees, (B, T, S).
        bias: Added to the scaled scores; broadcasts to (B, H, T, S).
    """
    batch, tokens, heads, dims = q.shape
    k, v = (np.repeat(x, heads // x.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(dims) + bias
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Array = np.einsum("bhts,bshd->bthd", weights, v)
    return mixed.reshape(batch, tokens, heads * dims)


def qwen_alpha(tokens: Array, seq_length: int) -> Array:
    """Return the factor of QWen's dynamic NTK for prompts of so many ``tokens`` (B,)."""
    doublings = np.ceil(np.log2(tokens / seq_length) + 1)
    alpha: Array = np.maximum(2**doublings - 1, 1)
    return alpha


def ntk_theta(theta: Array, factor: Array | float, dims: int) -> Array:
    """Return the base that an NTK ``factor`` makes of ``theta``."""
    stretched: Array = theta * factor ** (dims / (dims - 2))
    return stretched
