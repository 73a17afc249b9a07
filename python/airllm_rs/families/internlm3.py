"""InternLM 3: Llama with a bias of its own on queries, keys and values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airllm_rs.config import Keys
from airllm_rs.families import llama
from airllm_rs.families.family import Family
from airllm_rs.families.parts import attention, gated_mlp, pre_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec


def _translate(raw: Mapping[str, object]) -> Mapping[str, object]:
    # the bias that is not that of queries, keys and values is of everything else
    bias = Keys(raw).flag("bias", False)
    return {**raw, "attention_bias": Keys(raw).flag("qkv_bias", False), "mlp_bias": bias}


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    bias = config.mlp_bias
    return pre_norm(
        config,
        attention(config, qkv_bias=config.attention_bias, output_bias=bias),
        gated_mlp(config.hidden_size, config.intermediate_size, bias=bias),
    )


FAMILY = Family(
    "internlm3",
    _decoder,
    replace(
        llama.FAMILY.rules,
        defaults={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        translate=_translate,
        own=frozenset({"bias", "qkv_bias"}),
    ),
)
