"""Yi as it was first released: Llama with other names for its norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.families import llama
from airllm_rs.families.family import Family
from airllm_rs.families.parts import attention, gated_mlp, vector

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    return (
        vector("ln1", config.hidden_size, "input_layernorm"),
        *attention(config),
        vector("ln2", config.hidden_size, "post_attention_layernorm"),
        *gated_mlp(config.hidden_size, config.intermediate_size),
    )


FAMILY = Family("Yi", _decoder, llama.FAMILY.rules)
