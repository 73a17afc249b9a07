"""Mistral: no biases; the sliding window, where there is one, in every layer."""

from __future__ import annotations

from airllm_rs.config import ConfigRules
from airllm_rs.families.family import Family
from airllm_rs.families.llama import decoder

FAMILY = Family(
    "mistral",
    decoder,
    ConfigRules(
        defaults={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        ignored=frozenset(
            {
                "use_sliding_window", "max_window_layers", "layer_types", "attention_bias",
                "mlp_bias",
            }
        ),
    ),
)  # fmt: skip
