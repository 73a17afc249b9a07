"""Qwen3 with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.families.qwen3_moe import is_sparse
from airllm_rs.layers.mlp import GatedMLP
from airllm_rs.layers.moe import MixtureOfExperts, Router, most_probable
from airllm_rs.models import qwen3
from airllm_rs.models.decoder import CausalTree, Decoder, DecoderLayer, gated_mlp

if TYPE_CHECKING:
    from torch import nn

    from airllm_rs.config import ModelConfig


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    keys = config.keys
    experts = keys.count("num_experts")
    inner = keys.count("moe_intermediate_size")
    choose = most_probable(
        keys.count("num_experts_per_tok"), is_normalised=keys.flag("norm_topk_prob", False)
    )

    def mlp(index: int) -> nn.Module:
        if not is_sparse(config, index):
            return gated_mlp(config)
        return MixtureOfExperts(
            Router(config.hidden_size, experts, choose),
            (
                GatedMLP(config.hidden_size, inner, hidden_act=config.hidden_act)
                for _ in range(experts)
            ),
        )

    def layer(index: int) -> DecoderLayer:
        return DecoderLayer(qwen3.attention(config, index), mlp(index), config)

    return CausalTree(config, Decoder(config, layer))
