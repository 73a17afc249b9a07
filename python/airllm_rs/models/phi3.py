"""Phi-3 and Phi-4: Llama with fused projections; the first items of a head turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.models.decoder import gated_mlp
from airllm_rs.models.pre_norm import pre_norm_tree

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    return pre_norm_tree(config, mlp=lambda _: gated_mlp(config, is_fused=True), fused="thirds")
