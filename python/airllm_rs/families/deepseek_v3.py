"""DeepSeek V3 and R1; the layers that guess further tokens are not run."""

from __future__ import annotations

from functools import partial

from airllm_rs.config import ConfigRules
from airllm_rs.families import deepseek
from airllm_rs.families.family import Family

_DEFAULTS: dict[str, object] = {
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "routed_scaling_factor": 2.5,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "moe_intermediate_size": 2048,
    "rope_interleave": True,
    "num_nextn_predict_layers": 1,
}

FAMILY = Family(
    "deepseek_v3",
    partial(deepseek.decoder, has_correction=True),
    ConfigRules(
        defaults=_DEFAULTS,
        ignored=deepseek.IGNORED | {"mlp_bias"},
        own=deepseek.OWN,
        translate=partial(deepseek.translate, defaults=_DEFAULTS),
    ),
    kv_width=deepseek.latent_width,
    expanded_width=deepseek.expanded_width,
)
