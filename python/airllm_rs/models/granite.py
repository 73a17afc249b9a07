"""Granite: Llama's layers, scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
from airllm_rs.layers.scores import Scores
from airllm_rs.models.decoder import (
    CausalTree,
    Decoder,
    DecoderLayer,
    attention_shape,
    gated_mlp,
)

if TYPE_CHECKING:
    from torch import Tensor

    from airllm_rs.config import ModelConfig
    from airllm_rs.layers.attention import Context


class ScaledLayer(DecoderLayer):
    """A layer whose attention and MLP count so much beside what came in."""

    def __init__(self, attention: Attention, config: ModelConfig) -> None:
        super().__init__(attention, gated_mlp(config, bias=config.mlp_bias), config)
        self._share = config.keys.positive("residual_multiplier", 1.0)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map hidden states ``x`` of shape (B, T, hidden) to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), context) * self._share
        return x + self.mlp(self.post_attention_layernorm(x)) * self._share  # type: ignore[no-any-return]


class ScaledTree(CausalTree):
    """A decoder and its head, whose logits are divided by a number."""

    def __init__(self, config: ModelConfig, decoder: Decoder) -> None:
        super().__init__(config, decoder)
        self._divisor = config.keys.positive("logits_scaling", 1.0)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits in float32 for normed hidden states of shape (B, T, hidden)."""
        return super().logits(hidden).div_(self._divisor)


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    bias = config.attention_bias
    scores = Scores(scale=config.keys.positive("attention_multiplier", 1.0))

    def layer(index: int) -> ScaledLayer:
        shape = attention_shape(config, index, qkv_bias=bias, output_bias=bias, scores=scores)
        return ScaledLayer(Attention(shape, index), config)

    scale = config.keys.positive("embedding_multiplier", 1.0)
    decoder = Decoder(config, layer, embedding_scale=scale, inputs_scale=scale)
    return ScaledTree(config, decoder)
