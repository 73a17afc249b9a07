"""GLM-4-0414: GLM's attention and MLP, each between two norms."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
from airllm_rs.layers.norm import RMSNorm
from airllm_rs.layers.rope import RotaryEmbedding
from airllm_rs.models.decoder import (
    CausalTree,
    Decoder,
    SandwichLayer,
    attention_shape,
    gated_mlp,
)

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    norm = partial(RMSNorm, config.hidden_size, config.rms_norm_eps)

    def layer(index: int) -> SandwichLayer:
        shape = attention_shape(config, index, qkv_bias=config.attention_bias)
        return SandwichLayer(Attention(shape, index), gated_mlp(config, is_fused=True), norm)

    rope = RotaryEmbedding(config, is_paired=True)
    return CausalTree(config, Decoder(config, layer, ropes=(rope,)))
