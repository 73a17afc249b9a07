"""Gemma 3: Gemma 2 with norms of queries and keys, and another rope where layers have a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import SLIDING
from airllm_rs.layers.rope import RotaryEmbedding
from airllm_rs.models import gemma2

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    ropes = (
        RotaryEmbedding(config),
        RotaryEmbedding(config, parameters=config.sliding_rope_parameters),
    )
    kinds = [int(kind == SLIDING) for kind in config.layer_types]
    return gemma2.build(config, qk_norm=True, ropes=ropes, rotation_kinds=kinds)
