"""InternLM 3: Llama with a bias of its own on queries, keys and values."""

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
    bias = config.mlp_bias

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(config, index, qkv_bias=config.attention_bias, output_bias=bias)
        return DecoderLayer(Attention(shape, index), gated_mlp(config, bias=bias), config)

    return CausalTree(config, Decoder(config, layer))
