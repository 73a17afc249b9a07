"""GLM-4 as transformers has it: half of a head turns, in pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(config, index, qkv_bias=config.attention_bias)
        return DecoderLayer(Attention(shape, index), gated_mlp(config, is_fused=True), config)

    rope = RotaryEmbedding(config, is_paired=True)
    return CausalTree(config, Decoder(config, layer, ropes=(rope,)))
