"""InternLM 3: Llama with a bias of its own on queries, keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.models.decoder import gated_mlp
from airllm_rs.models.pre_norm import pre_norm_tree

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    bias = config.mlp_bias
    return pre_norm_tree(
        config,
        mlp=lambda _: gated_mlp(config, bias=bias),
        qkv_bias=config.attention_bias,
        output_bias=bias,
    )
