"""Qwen3: queries and keys normalised per head; a sliding window in the upper layers, if at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.families.family import Family, TensorSpec, decoder_tensors

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def _decoder(config: ModelConfig, prefix: str) -> tuple[TensorSpec, ...]:
    return decoder_tensors(
        config,
        prefix,
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        qk_norm=True,
    )


FAMILY = Family(
    "qwen3",
    _decoder,
    defaults={
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "max_window_layers": 28,
    },
    ignored=frozenset({"mlp_bias"}),
)
