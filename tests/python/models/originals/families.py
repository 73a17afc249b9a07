"""The families that transformers does not know, in numpy float64: the oracle of every test run.

`test_originals` holds them against the makers' own code, where that is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.originals.arithmetic import (
    Array,
    alibi_slopes,
    angles,
    ntk_theta,
    qwen_alpha,
    rotate_pairs,
    silu,
)
from models.originals.reference import Reference, Triple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray


class Yi(Reference):
    """The first release: Llama with other names of norms."""

    attention_norm = "ln1"
    mlp_norm = "ln2"


class ChatGLM(Reference):
    """ChatGLM2, ChatGLM3 and the first GLM-4: half of each head is turned, in pairs."""

    embedding = "transformer.embedding.word_embeddings"
    layer = "transformer.encoder.layers.{}."
    norm = "transformer.encoder.final_layernorm"
    head = "transformer.output_layer"
    output = "self_attention.dense"

    def theta(self, start: int, tokens: int, valid: NDArray[np.bool_]) -> Array:
        return np.full(valid.shape[0], 10_000.0 * self.real("rope_ratio", default=1.0))

    def qkv(self, h: Array, prefix: str) -> Triple:
        groups = self.number("multi_query_group_num")
        fused = self.split_heads(self.linear(h, f"{prefix}self_attention.query_key_value"))
        q, k, v = np.split(fused, [self.heads, self.heads + groups], axis=2)
        return q, k, v

    def turn(self, x: Array, start: int, theta: Array) -> Array:
        if "rope" in self.without:
            return x
        positions = np.arange(start, start + x.shape[1], dtype=np.float64)
        return rotate_pairs(x, angles(positions, self.head_dim // 2, theta))

    def mlp(self, h: Array, prefix: str) -> Array:
        gate, up = np.split(self.linear(h, f"{prefix}mlp.dense_h_to_4h"), 2, axis=-1)
        return self.linear(silu(gate) * up, f"{prefix}mlp.dense_4h_to_h")


class QWen(Reference):
    """QWen v1: the base of a prompt stays for what is decoded after it; late queries are longer."""

    embedding = "transformer.wte"
    layer = "transformer.h.{}."
    norm = "transformer.ln_f"
    attention_norm = "ln_1"
    output = "attn.c_proj"
    mlp_norm = "ln_2"

    def theta(self, start: int, tokens: int, valid: NDArray[np.bool_]) -> Array:
        if start == 0:
            base = np.full(valid.shape[0], self.real("rotary_emb_base", default=10_000.0))
            if self.config["use_dynamic_ntk"] and "ntk" not in self.without:
                # padding only counts as long as the padded batch is no longer than the model knows
                longest = self.number("seq_length")
                lengths = valid.sum(axis=1) if tokens > longest else np.full(len(valid), tokens)
                base = ntk_theta(base, qwen_alpha(lengths, longest), self.head_dim)
            self._theta = base
        return self._theta

    def qkv(self, h: Array, prefix: str) -> Triple:
        q, k, v = np.split(self.split_heads(self.linear(h, f"{prefix}attn.c_attn")), 3, axis=2)
        return q, k, v

    def scale_queries(self, q: Array, start: int) -> Array:
        longest = self.number("seq_length")
        if not self.config["use_logn_attn"] or self.length <= longest or "logn" in self.without:
            return q
        counts = np.arange(start + 1, self.length + 1)
        factors = np.where(counts > longest, np.log(counts) / np.log(longest), 1.0)
        return q * factors[None, :, None, None]

    def mlp(self, h: Array, prefix: str) -> Array:
        gate = silu(self.linear(h, f"{prefix}mlp.w2"))
        return self.linear(gate * self.linear(h, f"{prefix}mlp.w1"), f"{prefix}mlp.c_proj")


class Baichuan(Reference):
    """Baichuan with RoPE: one matrix makes queries, keys and values."""

    def qkv(self, h: Array, prefix: str) -> Triple:
        fused = self.split_heads(self.linear(h, f"{prefix}self_attn.W_pack"))
        q, k, v = np.split(fused, 3, axis=2)
        return q, k, v


class BaichuanAlibi(Baichuan):
    """Baichuan with ALiBi: nothing is turned, far keys score lower."""

    def turn(self, x: Array, start: int, theta: Array) -> Array:
        return x

    def bias(self, queries: NDArray[np.int64], keys: NDArray[np.int64]) -> Array:
        if "alibi" in self.without:
            return np.zeros((1, 1, 1, 1))
        distances = keys[None, :] - queries[:, None]
        sloped: Array = alibi_slopes(self.heads)[None, :, None, None] * distances
        return sloped


class NormHead(Reference):
    """The head of Baichuan2: its rows have length one."""

    def head_rows(self, rows: Array) -> Array:
        if "norm_head" in self.without:
            return rows
        unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return unit


class Baichuan2(NormHead, Baichuan):
    """Baichuan2-7B."""


class Baichuan2Alibi(NormHead, BaichuanAlibi):
    """Baichuan2-13B."""


class DynamicBase(Reference):
    """A base that grows with the tokens so far once they are more than the model was trained on."""

    def __init__(
        self,
        config: Mapping[str, object],
        weights: Mapping[str, NDArray[np.float32]],
        *,
        without: Collection[str] = (),
    ) -> None:
        super().__init__(config, weights, without=without)
        self.base, self.factor = self.scaling()

    def scaling(self) -> tuple[float, float | None]:
        """Return the base, and the factor if the base is dynamic."""
        base = self.real("rope_theta", default=10_000.0)
        scaling = self.config.get("rope_scaling")
        return base, float(scaling["factor"]) if isinstance(scaling, dict) else None

    def theta(self, start: int, tokens: int, valid: NDArray[np.bool_]) -> Array:
        theta = np.full(valid.shape[0], self.base)
        longest = self.number("max_position_embeddings")
        if self.factor is None or self.length <= longest or "ntk" in self.without:
            return theta
        stretch = self.factor * self.length / longest - (self.factor - 1)
        return ntk_theta(theta, stretch, self.head_dim)


class InternLM(DynamicBase):
    """InternLM 1; where the base is dynamic, all keys are turned anew in each call."""

    def scaling(self) -> tuple[float, float | None]:
        rotary = self.config.get("rotary")
        if not isinstance(rotary, dict):
            return 10_000.0, None
        factor = float(rotary.get("scaling_factor", 1.0))
        return float(rotary["base"]), factor if rotary["type"] == "dynamic" else None

    def cached(self, n: int, k: Array, v: Array, start: int, theta: Array) -> tuple[Array, Array]:
        if self.factor is None:
            return super().cached(n, k, v, start, theta)
        k, v = self.append(n, k, v)
        return self.turn(k, 0, theta), v


class InternLM2(DynamicBase):
    """InternLM 2 and 2.5: queries, keys and values of a group lie together."""

    embedding = "model.tok_embeddings"
    head = "output"
    attention_norm = "attention_norm"
    output = "attention.wo"
    mlp_norm = "ffn_norm"

    def qkv(self, h: Array, prefix: str) -> Triple:
        fused = self.split_heads(self.linear(h, f"{prefix}attention.wqkv"))
        each = self.heads // self.groups
        grouped = fused.reshape(*fused.shape[:2], self.groups, each + 2, self.head_dim)
        q = grouped[:, :, :, :each].reshape(*fused.shape[:2], self.heads, self.head_dim)
        return q, grouped[:, :, :, each], grouped[:, :, :, each + 1]

    def mlp(self, h: Array, prefix: str) -> Array:
        gate = silu(self.linear(h, f"{prefix}feed_forward.w1"))
        up = self.linear(h, f"{prefix}feed_forward.w3")
        return self.linear(gate * up, f"{prefix}feed_forward.w2")


class InternLM3(DynamicBase):
    """InternLM 3: Llama, with biases where ``qkv_bias`` and ``bias`` say."""
