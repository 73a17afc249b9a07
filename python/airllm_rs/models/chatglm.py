"""ChatGLM2, ChatGLM3 and the first GLM-4-9B: fused projections, half of a head turns in pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.families.chatglm import is_interleaved, turns_pairs
from airllm_rs.layers.attention import Attention
from airllm_rs.layers.rope import RotaryEmbedding
from airllm_rs.models.decoder import (
    CausalTree,
    Decoder,
    DecoderLayer,
    attention_shape,
    gated_mlp,
)

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    fused = "groups" if is_interleaved(config) else "thirds"

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(config, index, qkv_bias=config.attention_bias, fused=fused)
        return DecoderLayer(Attention(shape, index), gated_mlp(config, is_fused=True), config)

    rope = RotaryEmbedding(config, is_paired=turns_pairs(config))
    return CausalTree(config, Decoder(config, layer, ropes=(rope,)))
