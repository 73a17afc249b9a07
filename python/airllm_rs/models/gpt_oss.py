"""gpt-oss: attention with sinks, experts whose gate and up alternate and are clamped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from airllm_rs.families.gpt_oss import is_split, is_transposed
from airllm_rs.layers.attention import Attention
from airllm_rs.layers.linear import Linear, multiply_together
from airllm_rs.layers.moe import MixtureOfExperts, Router, most_probable_of_best
from airllm_rs.layers.scores import Scores
from airllm_rs.layers.transposed import TransposedLinear
from airllm_rs.models.decoder import CausalTree, Decoder, DecoderLayer, attention_shape

if TYPE_CHECKING:
    from torch import Tensor

    from airllm_rs.config import ModelConfig


class ClampedMLP(nn.Module):
    """``down((up + 1) * gate * sigmoid(alpha * gate))``; gate and up alternate, or are two."""

    def __init__(
        self,
        kind: type[Linear],
        hidden_size: int,
        intermediate_size: int,
        *,
        alpha: float,
        limit: float,
        is_split: bool = False,
    ) -> None:
        super().__init__()
        self.gate_up_proj: Linear | None = None
        if is_split:
            self.gate_proj = kind(hidden_size, intermediate_size, bias=True)
            self.up_proj = kind(hidden_size, intermediate_size, bias=True)
        else:
            self.gate_up_proj = kind(hidden_size, 2 * intermediate_size, bias=True)
        self.down_proj = kind(intermediate_size, hidden_size, bias=True)
        self._alpha = alpha
        self._limit = limit

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (N, hidden) to the same shape."""
        if self.gate_up_proj is None:
            gate, up = multiply_together(x, (self.gate_proj, self.up_proj))
        else:
            both = self.gate_up_proj(x)
            gate, up = both[..., 0::2], both[..., 1::2]
        gate = gate.clamp(max=self._limit)
        up = up.clamp(-self._limit, self._limit)
        gated = gate * (gate * self._alpha).sigmoid()
        return self.down_proj((up + 1) * gated)  # type: ignore[no-any-return]


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    keys = config.keys
    kind = TransposedLinear if is_transposed(config) else Linear
    experts = keys.count("num_local_experts")
    choose = most_probable_of_best(keys.count("num_experts_per_tok"))
    alpha, limit = keys.positive("swiglu_alpha", 1.702), keys.positive("swiglu_limit", 7.0)
    bias = config.attention_bias

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(
            config, index, qkv_bias=bias, output_bias=bias, scores=Scores(has_sinks=True)
        )
        mlp = MixtureOfExperts(
            Router(config.hidden_size, experts, choose, bias=True),
            (
                ClampedMLP(
                    kind,
                    config.hidden_size,
                    config.intermediate_size,
                    alpha=alpha,
                    limit=limit,
                    is_split=is_split(config),
                )
                for _ in range(experts)
            ),
        )
        return DecoderLayer(Attention(shape, index), mlp, config)

    return CausalTree(config, Decoder(config, layer))
