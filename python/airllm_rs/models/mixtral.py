"""Mixtral: Mistral's attention, a mixture of experts for an MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
from airllm_rs.layers.moe import MixtureOfExperts, Router, most_probable
from airllm_rs.models.decoder import (
    CausalTree,
    Decoder,
    DecoderLayer,
    attention_shape,
    gated_mlp,
)

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    experts = config.keys.count("num_local_experts")
    choose = most_probable(config.keys.count("num_experts_per_tok"), is_normalised=True)

    def layer(index: int) -> DecoderLayer:
        mlp = MixtureOfExperts(
            Router(config.hidden_size, experts, choose),
            (gated_mlp(config) for _ in range(experts)),
        )
        return DecoderLayer(Attention(attention_shape(config, index), index), mlp, config)

    return CausalTree(config, Decoder(config, layer))
