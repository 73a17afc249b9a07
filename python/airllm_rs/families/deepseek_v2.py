"""DeepSeek V2, V2-Lite and Coder V2."""

from __future__ import annotations

from functools import partial

from airllm_rs.config import ConfigRules
from airllm_rs.families import deepseek
from airllm_rs.families.family import Family

_DEFAULTS: dict[str, object] = {
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 0,
    "moe_layer_freq": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "moe_intermediate_size": 1407,
}

FAMILY = Family(
    "deepseek_v2",
    partial(deepseek.decoder, has_correction=False),
    ConfigRules(
        defaults=_DEFAULTS,
        ignored=deepseek.IGNORED,
        own=deepseek.OWN,
        translate=partial(deepseek.translate, defaults=_DEFAULTS),
    ),
    kv_width=deepseek.latent_width,
    expanded_width=deepseek.expanded_width,
)
