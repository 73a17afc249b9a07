"""Mixtral: Mistral with eight MLPs in each layer, of which two run for a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import ConfigRules
from airllm_rs.families.family import Family
from airllm_rs.families.parts import attention, linear, pre_norm

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec

_MOE = "block_sparse_moe."


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    experts = config.keys.count("num_local_experts")
    hidden, inner = config.hidden_size, config.intermediate_size
    mlp = [*linear(f"{_MOE}gate", experts, hidden, parameter="mlp.gate")]
    for number in range(experts):
        theirs, ours = f"{_MOE}experts.{number}.", f"mlp.experts.{number}."
        mlp += linear(f"{theirs}w1", inner, hidden, parameter=f"{ours}gate_proj")
        mlp += linear(f"{theirs}w3", inner, hidden, parameter=f"{ours}up_proj")
        mlp += linear(f"{theirs}w2", hidden, inner, parameter=f"{ours}down_proj")
    return pre_norm(config, attention(config), tuple(mlp))


FAMILY = Family(
    "mixtral",
    _decoder,
    ConfigRules(
        defaults={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        ignored=frozenset(
            {
                "use_sliding_window", "max_window_layers", "layer_types", "attention_bias",
                "mlp_bias",
            }
        ),
        own=frozenset({"num_local_experts", "num_experts_per_tok"}),
    ),
)  # fmt: skip
