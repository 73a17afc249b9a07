"""Gemma 2: scaled embeddings, norms around attention and MLP, capped scores and logits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
from airllm_rs.layers.norm import OffsetRMSNorm
from airllm_rs.layers.scores import Scores
from airllm_rs.models.decoder import (
    CausalTree,
    Decoder,
    SandwichLayer,
    attention_shape,
    gated_mlp,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.config import ModelConfig
    from airllm_rs.layers.rope import RotaryEmbedding


def build(
    config: ModelConfig,
    *,
    qk_norm: bool = False,
    ropes: Sequence[RotaryEmbedding] | None = None,
    rotation_kinds: Sequence[int] | None = None,
) -> CausalTree:
    """Return the module tree, on meta; Gemma 3 has norms of queries and keys, and two ropes."""
    keys = config.keys
    scores = Scores(
        scale=keys.positive("query_pre_attn_scalar", 256.0) ** -0.5,
        softcap=keys.optional_positive("attn_logit_softcapping"),
    )
    norm = partial(OffsetRMSNorm, config.hidden_size, config.rms_norm_eps)

    def layer(index: int) -> SandwichLayer:
        shape = attention_shape(
            config,
            index,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            norm=partial(OffsetRMSNorm, eps=config.rms_norm_eps) if qk_norm else None,
            scores=scores,
        )
        return SandwichLayer(Attention(shape, index), gated_mlp(config), norm)

    decoder = Decoder(
        config,
        layer,
        ropes=ropes,
        rotation_kinds=rotation_kinds,
        norm=norm(),
        embedding_scale=config.hidden_size**0.5,
    )
    softcap = keys.optional_positive("final_logit_softcapping")
    return CausalTree(config, decoder, softcap=softcap)
