"""Qwen2: biases on queries, keys and values; a sliding window in some layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.attention import AttentionShape
from airllm_rs.models.decoder import CausalTree, Decoder

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    shapes = [
        AttentionShape(
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            qkv_bias=True,
            window=window,
        )
        for window in config.windows
    ]
    return CausalTree(config, Decoder(config, shapes, mlp_bias=False))
