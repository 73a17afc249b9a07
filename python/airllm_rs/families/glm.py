"""GLM-4 as transformers has it: half of a head turns, in pairs; one matrix for gate and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import ConfigRules
from airllm_rs.families.family import Family
from airllm_rs.families.parts import attention, fused_mlp, pre_norm

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec

RULES = ConfigRules(
    defaults={
        "max_position_embeddings": 131072,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1.5625e-07,
        "attention_bias": True,
        "eos_token_id": [151329, 151336, 151338],
        "pad_token_id": 151329,
    },
    ignored=frozenset(
        {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "mlp_bias"}
    ),
)


def projections(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return the tensors of attention; the output has no bias."""
    return attention(config, qkv_bias=config.attention_bias)


def mlp(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return the tensors of the MLP."""
    return fused_mlp(
        config.hidden_size, config.intermediate_size, "mlp.gate_up_proj", "mlp.down_proj"
    )


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    return pre_norm(config, projections(config), mlp(config))


FAMILY = Family("glm", _decoder, RULES)
