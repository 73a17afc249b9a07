"""QWen, the first generation: its frequencies and the weight of queries grow with the length."""

from __future__ import annotations

from math import ceil, log, log2
from typing import TYPE_CHECKING

import torch

from airllm_rs.layers.attention import Attention
from airllm_rs.layers.rope import Lengths, RotaryEmbedding, Rotation
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


class GrowingRope(RotaryEmbedding):
    """RoPE whose base grows with the prompt (NTK), and queries that do with their position (logn).

    For a prompt of n tokens the base is multiplied by a^(D / (D - 2)) with
    a = max(2^ceil(log2(n / length) + 1) - 1, 1); tokens that follow keep that. A query at position
    p of ``length`` or more is multiplied by log(p + 1) / log(length), both as in the code that was
    published with the weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._length = config.keys.count("seq_length")
        self._has_ntk = config.keys.flag("use_dynamic_ntk", True)
        self._has_logn = config.keys.flag("use_logn_attn", True)

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies change with the length of the prompt."""
        return self._has_ntk

    def rotation(self, positions: Tensor, lengths: Lengths, dtype: torch.dtype) -> Rotation:
        """Return the rotation of ``positions`` (B or 1, T), each row for its own prompt."""
        rows = [self._of_prompt(n) for n in lengths.first or (0,)]
        frequencies = torch.stack(rows)[:, None, None, :]
        angles = positions[:, None, :, None].float() * frequencies
        turned = self.arranged(angles.cos(), angles.sin(), dtype)
        return turned._replace(gain=self._gain(positions, dtype)) if self._has_logn else turned

    def _of_prompt(self, tokens: int) -> Tensor:
        if not self._has_ntk or tokens <= self._length:
            return self._frequencies
        alpha = max(2.0 ** ceil(log2(tokens / self._length) + 1) - 1, 1.0)
        dim = self._head_dim
        base = self._theta * alpha ** (dim / (dim - 2))
        frequencies: Tensor = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        return frequencies

    def _gain(self, positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        if int(positions.max()) < self._length:
            return None
        gain = (positions.float() + 1).log() / log(self._length)
        return torch.where(positions >= self._length, gain, 1.0)[:, None, :, None].to(dtype)


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    bias = not config.keys.flag("no_bias", True)

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(config, index, qkv_bias=True, output_bias=bias, fused="thirds")
        return DecoderLayer(Attention(shape, index), gated_mlp(config, bias=bias), config)

    return CausalTree(config, Decoder(config, layer, ropes=(GrowingRope(config),)))
