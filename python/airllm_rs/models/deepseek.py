"""DeepSeek V2 and V3: latent attention and mixtures of experts, which differ in their routers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from airllm_rs.errors import UnsupportedModelError
from airllm_rs.families.deepseek import is_sparse, is_split, scale, shared_experts
from airllm_rs.layers.latent import LatentAttention, LatentShape
from airllm_rs.layers.mlp import GatedMLP
from airllm_rs.layers.moe import MixtureOfExperts, Router, within_groups
from airllm_rs.layers.rope import RotaryEmbedding
from airllm_rs.models.decoder import CausalTree, Decoder, DecoderLayer, gated_mlp

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from airllm_rs.config import ModelConfig
    from airllm_rs.layers.moe import Choose


class CorrectedRouter(Router):
    """Chooses by scores with a correction, and weighs by those without (DeepSeek V3)."""

    exact = frozenset({"e_score_correction_bias"})
    """Parameters that stay in float32, whatever the arithmetic: small differences decide."""

    def __init__(self, config: ModelConfig) -> None:
        keys = config.keys
        experts = keys.count("n_routed_experts")
        super().__init__(config.hidden_size, experts, self._corrected, is_precise=True)
        correction = torch.empty(experts, device="meta")
        self.e_score_correction_bias = nn.Parameter(correction, requires_grad=False)
        self._count = keys.count("num_experts_per_tok")
        self._groups, self._kept = keys.count("n_group"), keys.count("topk_group")
        self._is_normalised = keys.flag("norm_topk_prob", True)
        self._factor = keys.positive("routed_scaling_factor", 1.0)

    def _corrected(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        shares = scores.sigmoid()
        corrected = shares + self.e_score_correction_bias.float()
        allowed = within_groups(corrected, self._groups, self._kept, best=2)
        chosen = corrected.masked_fill(~allowed, -torch.inf).topk(self._count, dim=-1).indices
        weights = shares.gather(1, chosen)
        if self._is_normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * self._factor, chosen


def _choose_v2(config: ModelConfig) -> Choose:
    keys = config.keys
    count, factor = keys.count("num_experts_per_tok"), keys.positive("routed_scaling_factor", 1.0)
    method = keys.text("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise UnsupportedModelError(
            f"config.json: topk_method is {method!r}; known: greedy, group_limited_greedy"
        )
    is_normalised = keys.flag("norm_topk_prob", False) and count > 1

    def choose(scores: Tensor) -> tuple[Tensor, Tensor]:
        shares = scores.softmax(-1)
        if method == "group_limited_greedy":
            groups, kept = keys.count("n_group"), keys.count("topk_group")
            shares = shares.masked_fill(~within_groups(shares, groups, kept, best=1), 0.0)
        weights, chosen = shares.topk(count, dim=-1)
        if is_normalised:
            return weights / (weights.sum(-1, keepdim=True) + 1e-20), chosen
        return weights * factor, chosen

    return choose


def build_v2(config: ModelConfig) -> CausalTree:
    """Return the module tree of DeepSeek V2, on meta."""
    experts = config.keys.count("n_routed_experts")
    choose = _choose_v2(config)
    rope = RotaryEmbedding(config, head_dim=config.keys.count("qk_rope_head_dim"), is_paired=True)
    return _build(
        config, rope, lambda: Router(config.hidden_size, experts, choose, is_precise=True)
    )


def build_v3(config: ModelConfig) -> CausalTree:
    """Return the module tree of DeepSeek V3, on meta."""
    rope = RotaryEmbedding(
        config,
        head_dim=config.keys.count("qk_rope_head_dim"),
        is_paired=config.keys.flag("rope_interleave", True),
    )
    return _build(config, rope, lambda: CorrectedRouter(config))


def _build(
    config: ModelConfig, rope: RotaryEmbedding, router: Callable[[], nn.Module]
) -> CausalTree:
    keys = config.keys
    shape = LatentShape(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        nope=keys.count("qk_nope_head_dim"),
        rope=keys.count("qk_rope_head_dim"),
        value=keys.count("v_head_dim"),
        latent=keys.count("kv_lora_rank"),
        query_latent=keys.optional_count("q_lora_rank"),
        bias=config.attention_bias,
        scale=scale(config),
        is_split=is_split(config),
    )
    inner = keys.count("moe_intermediate_size")
    shared = shared_experts(config)

    def expert(width: int) -> GatedMLP:
        return GatedMLP(config.hidden_size, width, hidden_act=config.hidden_act)

    def mlp(index: int) -> nn.Module:
        if not is_sparse(config, index):
            return gated_mlp(config, bias=config.mlp_bias)
        return MixtureOfExperts(
            router(),
            (expert(inner) for _ in range(keys.count("n_routed_experts"))),
            expert(shared * inner) if shared else None,
        )

    def layer(index: int) -> DecoderLayer:
        return DecoderLayer(LatentAttention(shape, index), mlp(index), config)

    return CausalTree(config, Decoder(config, layer, ropes=(rope,)))
