"""Qwen2: biases on queries, keys and values; a sliding window in the upper layers, if at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import ConfigRules
from airllm_rs.families.family import Family
from airllm_rs.families.parts import attention, gated_mlp, pre_norm

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    return pre_norm(
        config,
        attention(config, qkv_bias=True),
        gated_mlp(config.hidden_size, config.intermediate_size),
    )


FAMILY = Family(
    "qwen2",
    _decoder,
    ConfigRules(
        defaults={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "use_sliding_window": False,
            "max_window_layers": 28,
        },
        ignored=frozenset({"attention_bias", "mlp_bias"}),
    ),
)
