"""Llama: biases by configuration, all keys visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.models.decoder import gated_mlp
from airllm_rs.models.pre_norm import pre_norm_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.config import ModelConfig
    from airllm_rs.layers.rope import RotaryEmbedding
    from airllm_rs.models.decoder import CausalTree


def build(config: ModelConfig, ropes: Sequence[RotaryEmbedding] | None = None) -> CausalTree:
    """Return the module tree, on meta; ``ropes`` are as `Decoder` takes them."""
    return pre_norm_tree(
        config,
        mlp=lambda _: gated_mlp(config, bias=config.mlp_bias),
        ropes=ropes,
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
    )
