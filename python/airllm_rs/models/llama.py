"""Llama: biases by configuration, all keys visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
from airllm_rs.models.decoder import CausalTree, Decoder, DecoderLayer, attention_shape, gated_mlp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.config import ModelConfig
    from airllm_rs.layers.rope import RotaryEmbedding


def build(config: ModelConfig, ropes: Sequence[RotaryEmbedding] | None = None) -> CausalTree:
    """Return the module tree, on meta; ``ropes`` are as `Decoder` takes them."""

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(
            config, index, qkv_bias=config.attention_bias, output_bias=config.attention_bias
        )
        return DecoderLayer(
            Attention(shape, index), gated_mlp(config, bias=config.mlp_bias), config
        )

    return CausalTree(config, Decoder(config, layer, ropes=ropes))
