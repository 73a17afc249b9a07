"""Llama: biases by configuration, all keys visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.models.decoder import CausalTree, Decoder, attention_shapes

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    shapes = attention_shapes(
        config, qkv_bias=config.attention_bias, output_bias=config.attention_bias
    )
    return CausalTree(config, Decoder(config, shapes, mlp_bias=config.mlp_bias))
