"""Llama: biases as config.json says, all keys visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import ConfigRules
from airllm_rs.families.family import Family
from airllm_rs.families.parts import attention, gated_mlp, pre_norm

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec


def decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    """Return the tensors of a layer."""
    return pre_norm(
        config,
        attention(config, qkv_bias=config.attention_bias, output_bias=config.attention_bias),
        gated_mlp(config.hidden_size, config.intermediate_size, bias=config.mlp_bias),
    )


FAMILY = Family(
    "llama",
    decoder,
    ConfigRules(
        defaults={"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
        ignored=frozenset(
            {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}
        ),
    ),
)
