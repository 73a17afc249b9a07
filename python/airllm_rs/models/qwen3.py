"""Qwen3: queries and keys normalised per head; a sliding window in some layers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
from airllm_rs.layers.norm import RMSNorm
from airllm_rs.models.decoder import CausalTree, Decoder, DecoderLayer, attention_shape, gated_mlp

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def attention(config: ModelConfig, index: int) -> Attention:
    """Return the attention of a layer."""
    shape = attention_shape(
        config,
        index,
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        norm=partial(RMSNorm, eps=config.rms_norm_eps),
    )
    return Attention(shape, index)


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""

    def layer(index: int) -> DecoderLayer:
        return DecoderLayer(attention(config, index), gated_mlp(config), config)

    return CausalTree(config, Decoder(config, layer))
