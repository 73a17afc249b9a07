"""Phi-3 and Phi-4: Llama's layers with fused projections; the first items of a head turn."""

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
        shape = attention_shape(config, index, fused="thirds")
        return DecoderLayer(Attention(shape, index), gated_mlp(config, is_fused=True), config)

    return CausalTree(config, Decoder(config, layer))
