"""Qwen3: queries and keys normalised per head; a sliding window in some layers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from airllm_rs.layers.norm import RMSNorm
from airllm_rs.models.pre_norm import pre_norm_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree


def build(config: ModelConfig, mlp: Callable[[int], nn.Module] | None = None) -> CausalTree:
    """Return the module tree, on meta; ``mlp`` makes the MLP of a layer, a gated one if None."""
    return pre_norm_tree(
        config,
        mlp=mlp,
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        norm=partial(RMSNorm, eps=config.rms_norm_eps),
    )
