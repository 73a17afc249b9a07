"""Qwen3 with experts: a mixture of many small MLPs in all layers but those that are listed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airllm_rs.errors import ConfigError
from airllm_rs.families import qwen3
from airllm_rs.families.family import Family
from airllm_rs.families.parts import gated_mlp, linear, pre_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec


def is_sparse(config: ModelConfig, index: int) -> bool:
    """Tell whether a layer has experts."""
    dense = config.keys.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise ConfigError(f"config.json: mlp_only_layers is {dense!r}, expected a list")
    step = config.keys.count("decoder_sparse_step")
    return index not in dense and (index + 1) % step == 0


def _decoder(config: ModelConfig, index: int) -> tuple[TensorSpec, ...]:
    hidden = config.hidden_size
    mlp = gated_mlp(hidden, config.intermediate_size)
    if is_sparse(config, index):
        experts = config.keys.count("num_experts")
        inner = config.keys.count("moe_intermediate_size")
        mlp = linear("mlp.gate", experts, hidden)
        for number in range(experts):
            mlp += gated_mlp(hidden, inner, prefix=f"mlp.experts.{number}.")
    return pre_norm(config, qwen3.attention_tensors(config), mlp)


def _translate(raw: Mapping[str, object]) -> Mapping[str, object]:
    return {"num_experts" if key == "num_local_experts" else key: raw[key] for key in raw}


FAMILY = Family(
    "qwen3_moe",
    _decoder,
    replace(
        qwen3.FAMILY.rules,
        defaults={
            **{k: v for k, v in qwen3.FAMILY.rules.defaults.items() if k != "max_window_layers"},
            "num_key_value_heads": 4,
            "head_dim": None,
            "decoder_sparse_step": 1,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        },
        # the window, where there is one, is that of every layer
        ignored=qwen3.FAMILY.rules.ignored | {"max_window_layers", "layer_types"},
        translate=_translate,
        own=frozenset(
            {
                "decoder_sparse_step", "moe_intermediate_size", "num_experts",
                "num_experts_per_tok", "norm_topk_prob", "mlp_only_layers",
            }
        ),
    ),
)  # fmt: skip
