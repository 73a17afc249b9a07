"""Phi-3 and Phi-4: one matrix for queries, keys and values, one for gate and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import ConfigRules
from airllm_rs.families.family import Family
from airllm_rs.families.parts import fused_attention, fused_mlp, pre_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    return pre_norm(
        config,
        fused_attention(config, "self_attn.qkv_proj", "self_attn.o_proj"),
        fused_mlp(
            config.hidden_size, config.intermediate_size, "mlp.gate_up_proj", "mlp.down_proj"
        ),
    )


def _translate(raw: Mapping[str, object]) -> Mapping[str, object]:
    """Call the RoPE of early files longrope: they say ``su`` or ``yarn`` and mean that."""
    found = dict(raw)
    for key in ("rope_scaling", "rope_parameters"):
        scaling = found.get(key)
        if isinstance(scaling, dict):
            kind = scaling.get("rope_type", scaling.get("type"))
            if kind in ("su", "yarn"):
                found[key] = {**scaling, "type": "longrope", "rope_type": "longrope"}
    return found


FAMILY = Family(
    "phi3",
    _decoder,
    ConfigRules(
        defaults={
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 32000,
            "pad_token_id": 32000,
        },
        ignored=frozenset(
            {
                "use_sliding_window",
                "max_window_layers",
                "layer_types",
                "attention_bias",
                "mlp_bias",
            }
        ),
        translate=_translate,
    ),
)
