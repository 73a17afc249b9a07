"""A decoder in numpy float64, with a cache: what the reference of each family derives from."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from models.originals.arithmetic import (
    Array,
    angles,
    attend,
    rms_norm,
    rotate_halves,
    silu,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

Triple = tuple[Array, Array, Array]


class Reference:
    """A decoder with Llama's names and separate projections; each call goes on after the last.

    Positions are counted in slots: padding on the left counts, as in the makers' code.
    """

    embedding: ClassVar = "model.embed_tokens"
    layer: ClassVar = "model.layers.{}."
    norm: ClassVar = "model.norm"
    head: ClassVar = "lm_head"
    attention_norm: ClassVar = "input_layernorm"
    output: ClassVar = "self_attn.o_proj"
    mlp_norm: ClassVar = "post_attention_layernorm"

    def __init__(
        self,
        config: Mapping[str, object],
        weights: Mapping[str, NDArray[np.float32]],
        *,
        without: Collection[str] = (),
    ) -> None:
        """Take a checkpoint as it is shipped.

        Args:
            config: What config.json says.
            weights: The tensors, by the names of the checkpoint.
            without: What is switched off, for tests must notice: ``"rope"``, ``"mask"``,
                ``"bias"``, ``"alibi"``, ``"ntk"``, ``"logn"``, ``"norm_head"``.
        """
        self.config = dict(config)
        self.weights = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
        self.without = frozenset(without)
        self.num_layers = self.number("num_hidden_layers", "num_layers", "n_layer")
        self.heads = self.number("num_attention_heads", "n_head")
        self.groups = self.number("num_key_value_heads", default=self.heads)
        hidden = self.number("hidden_size", "n_embd")
        self.head_dim = self.number("head_dim", "kv_channels", default=hidden // self.heads)
        self.rotary_dim = self.head_dim
        self.eps = self.real("rms_norm_eps", "layernorm_epsilon", "layer_norm_epsilon")
        self.length = 0
        self._past: list[tuple[Array, Array]] = []

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return logits (B, T, V) of ``ids`` (B, T).

        ``mask`` (B, earlier + T) is 0 where a sequence is padded.
        """
        batch, tokens = ids.shape
        start, self.length = self.length, self.length + tokens
        valid = np.ones((batch, self.length), bool) if mask is None else mask.astype(bool)
        slots = np.arange(self.length)
        visible = slots[None, :] <= slots[start:, None]
        if "mask" in self.without:
            visible = np.ones_like(visible)
        # what is padding sees itself: its logits mean nothing, but are numbers
        own = slots[None, :] == slots[start:, None]
        visible = (visible[None] & valid[:, None]) | own[None]
        theta = self.theta(start, tokens, valid)
        x = self.weights[f"{self.embedding}.weight"][ids]
        for n in range(self.num_layers):
            prefix = self.layer.format(n)
            h = rms_norm(x, self.weights[f"{prefix}{self.attention_norm}.weight"], self.eps)
            q, k, v = self.qkv(h, prefix)
            k, v = self.cached(n, k, v, start, theta)
            q = self.scale_queries(self.turn(q, start, theta), start)
            mixed = attend(q, k, v, visible, self.bias(slots[start:], slots))
            x = x + self.linear(mixed, f"{prefix}{self.output}")
            h = rms_norm(x, self.weights[f"{prefix}{self.mlp_norm}.weight"], self.eps)
            x = x + self.mlp(h, prefix)
        rows = self.head_rows(self.weights[f"{self.head}.weight"])
        logits: Array = rms_norm(x, self.weights[f"{self.norm}.weight"], self.eps) @ rows.T
        return logits

    def append(self, n: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Put keys and values behind the earlier ones of layer ``n``, and return them all."""
        if len(self._past) == n:
            self._past.append((k, v))
        else:
            keys, values = self._past[n]
            self._past[n] = (np.concatenate((keys, k), axis=1), np.concatenate((values, v), axis=1))
        return self._past[n]

    # what families differ in

    def theta(self, start: int, tokens: int, valid: NDArray[np.bool_]) -> Array:
        """Return the base of the rotation in this call, one per sequence."""
        base = self.real("rope_theta", default=10_000.0)
        return np.full(valid.shape[0], base)

    def qkv(self, h: Array, prefix: str) -> Triple:
        """Return queries (B, T, H, D), keys and values (B, T, G, D)."""
        q, k, v = (self.split_heads(self.linear(h, f"{prefix}self_attn.{x}_proj")) for x in "qkv")
        return q, k, v

    def turn(self, x: Array, start: int, theta: Array) -> Array:
        """Apply the rotary embedding to ``x`` (B, T, heads, D), which begins at slot ``start``."""
        if "rope" in self.without:
            return x
        positions = np.arange(start, start + x.shape[1], dtype=np.float64)
        return rotate_halves(x, angles(positions, self.rotary_dim, theta))

    def cached(self, n: int, k: Array, v: Array, start: int, theta: Array) -> tuple[Array, Array]:
        """Return all keys, turned, and values of layer ``n``; what is kept is turned for good."""
        return self.append(n, self.turn(k, start, theta), v)

    def scale_queries(self, q: Array, start: int) -> Array:
        """Return queries (B, T, H, D) as they meet the keys."""
        return q

    def bias(self, queries: NDArray[np.int64], keys: NDArray[np.int64]) -> Array:
        """Return what is added to scores; broadcasts to (B, H, T, S)."""
        return np.zeros((1, 1, 1, 1))

    def mlp(self, h: Array, prefix: str) -> Array:
        """Return the feed-forward part (B, T, hidden)."""
        gate = silu(self.linear(h, f"{prefix}mlp.gate_proj"))
        return self.linear(gate * self.linear(h, f"{prefix}mlp.up_proj"), f"{prefix}mlp.down_proj")

    def head_rows(self, rows: Array) -> Array:
        """Return the rows of the head (V, hidden) as they meet the hidden states."""
        return rows

    # reading configurations and tensors

    def number(self, *names: str, default: int | None = None) -> int:
        """Return the first of some keys of the configuration that is there."""
        return int(self.real(*names, default=default))

    def real(self, *names: str, default: float | None = None) -> float:
        """Return the first of some keys of the configuration that is there."""
        for name in names:
            value = self.config.get(name)
            if isinstance(value, int | float):
                return value
        assert default is not None, f"none of {names} is in the configuration"
        return default

    def linear(self, x: Array, name: str) -> Array:
        """Apply the matrix ``name``, and its bias if there is one."""
        y: Array = x @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None or "bias" in self.without else y + bias

    def split_heads(self, x: Array) -> Array:
        """View (B, T, heads * D) as (B, T, heads, D)."""
        return x.reshape(*x.shape[:2], -1, self.head_dim)
