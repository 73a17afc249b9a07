"""InternLM 2 and 2.5: Llama under other names, queries, keys and values alternating by key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airllm_rs.config import Keys
from airllm_rs.families import llama
from airllm_rs.families.family import Family
from airllm_rs.families.parts import fused_attention, linear, vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec


def _translate(raw: Mapping[str, object]) -> Mapping[str, object]:
    # the bias is of attention alone
    return {**raw, "attention_bias": Keys(raw).flag("bias", False), "mlp_bias": False}


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    hidden, inner, bias = config.hidden_size, config.intermediate_size, config.attention_bias
    return (
        vector("attention_norm", hidden, "input_layernorm"),
        *fused_attention(config, "attention.wqkv", "attention.wo", qkv_bias=bias, output_bias=bias),
        vector("ffn_norm", hidden, "post_attention_layernorm"),
        *linear("feed_forward.w1", inner, hidden, parameter="mlp.gate_proj"),
        *linear("feed_forward.w3", inner, hidden, parameter="mlp.up_proj"),
        *linear("feed_forward.w2", hidden, inner, parameter="mlp.down_proj"),
    )


FAMILY = Family(
    "internlm2",
    _decoder,
    replace(llama.FAMILY.rules, translate=_translate, own=frozenset({"bias"})),
    embedding="model.tok_embeddings.weight",
    head="output.weight",
)
