"""InternLM 2 and 2.5: Llama with queries, keys and values in one matrix, alternating by key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.models.pre_norm import pre_norm_tree

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    bias = config.attention_bias
    return pre_norm_tree(config, qkv_bias=bias, output_bias=bias, fused="groups")
