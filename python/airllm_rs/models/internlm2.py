"""InternLM 2 and 2.5: Llama with queries, keys and values in one matrix, alternating by key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
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
        bias = config.attention_bias
        shape = attention_shape(config, index, qkv_bias=bias, output_bias=bias, fused="groups")
        return DecoderLayer(Attention(shape, index), gated_mlp(config), config)

    return CausalTree(config, Decoder(config, layer))
