"""GLM-4-0414: GLM with a norm behind attention and one behind the MLP, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.families.family import Family
from airllm_rs.families.glm import RULES, mlp, projections
from airllm_rs.families.parts import vector

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    hidden = config.hidden_size
    return (
        vector("input_layernorm", hidden),
        *projections(config),
        vector("post_self_attn_layernorm", hidden, "post_attention_layernorm"),
        # what other families call by this name comes before the MLP here
        vector("post_attention_layernorm", hidden, "pre_feedforward_layernorm"),
        *mlp(config),
        vector("post_mlp_layernorm", hidden, "post_feedforward_layernorm"),
    )


FAMILY = Family("glm4", _decoder, RULES)
