"""Baichuan 1 and 2: one matrix for queries, keys and values; RoPE or ALiBi."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.families.baichuan import alibi_slopes, has_alibi, has_norm_head, is_fused
from airllm_rs.layers.attention import Attention
from airllm_rs.layers.linear import Linear
from airllm_rs.layers.norm_head import NormHead
from airllm_rs.layers.scores import Scores
from airllm_rs.models.decoder import (
    CausalTree,
    Decoder,
    DecoderLayer,
    attention_shape,
    gated_mlp,
)

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    alibi = has_alibi(config)
    slopes = alibi_slopes(config.num_attention_heads) if alibi else None

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(
            config,
            index,
            fused="thirds" if is_fused(config) else "no",
            turns=not alibi,
            scores=Scores(slopes=slopes),
        )
        return DecoderLayer(Attention(shape, index), gated_mlp(config), config)

    kind = NormHead if has_norm_head(config) else Linear
    head = kind(config.hidden_size, config.vocab_size, bias=False)
    decoder = Decoder(config, layer, ropes=() if alibi else None)
    return CausalTree(config, decoder, head=head)
