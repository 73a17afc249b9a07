"""Qwen2: biases on queries, keys and values; a sliding window in some layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
from airllm_rs.models.decoder import CausalTree, Decoder, DecoderLayer, attention_shape, gated_mlp

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(config, index, qkv_bias=True)
        return DecoderLayer(Attention(shape, index), gated_mlp(config), config)

    return CausalTree(config, Decoder(config, layer))
