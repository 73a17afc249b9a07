"""Llama: biases as config.json says, all keys visible."""

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
        mlp_bias=config.mlp_bias,
    )


FAMILY = Family(
    "llama",
    _decoder,
    defaults={"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    ignored=frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}),
)
