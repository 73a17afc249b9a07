"""Mixtral: Mistral's attention, a mixture of experts for an MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.moe import MixtureOfExperts, Router, most_probable
from airllm_rs.models.decoder import gated_mlp
from airllm_rs.models.pre_norm import pre_norm_tree

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    experts = config.keys.count("num_local_experts")
    choose = most_probable(config.keys.count("num_experts_per_tok"), is_normalised=True)

    def mixture(_index: int) -> MixtureOfExperts:
        gate = Router(config.hidden_size, experts, choose)
        return MixtureOfExperts(gate, (gated_mlp(config) for _ in range(experts)))

    return pre_norm_tree(config, mlp=mixture)
