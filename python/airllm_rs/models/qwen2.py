"""Qwen2: biases on queries, keys and values; a sliding window in some layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.models.pre_norm import pre_norm_tree

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    return pre_norm_tree(config, qkv_bias=True)
