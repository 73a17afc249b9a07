"""What DeepSeek V2 and V3 have in common: latent attention, dense first layers, shared experts."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from airllm_rs.config import Keys
from airllm_rs.errors import ConfigError
from airllm_rs.families.family import TensorSpec
from airllm_rs.families.parts import gated_mlp, linear, vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig

OWN = frozenset({
    "first_k_dense_replace", "kv_lora_rank", "q_lora_rank", "n_group", "n_routed_experts",
    "n_shared_experts", "qk_nope_head_dim", "qk_rope_head_dim", "routed_scaling_factor",
    "topk_group", "topk_method", "norm_topk_prob", "v_head_dim", "num_experts_per_tok",
    "moe_intermediate_size", "moe_layer_freq", "rope_interleave", "num_nextn_predict_layers",
    "split_kv_b",
})  # fmt: skip
IGNORED = frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"})
_RENAMED = {
    "num_local_experts": "n_routed_experts",
    "num_experts": "n_routed_experts",
    "num_mtp_layers": "num_nextn_predict_layers",
}


def translate(raw: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    """Give experts their usual name, and heads the size that queries and keys have."""
    found = {_RENAMED.get(key, key): value for key, value in raw.items()}
    keys = Keys({**defaults, **found})
    found["head_dim"] = keys.count("qk_nope_head_dim") + keys.count("qk_rope_head_dim")
    found["num_key_value_heads"] = keys.count("num_attention_heads")
    return found


def is_sparse(config: ModelConfig, index: int) -> bool:
    """Tell whether a layer has experts."""
    first = config.keys.values.get("first_k_dense_replace") or 0
    if not isinstance(first, int):
        raise ConfigError(f"config.json: first_k_dense_replace is {first!r}, expected a number")
    return index >= first and index % config.keys.count("moe_layer_freq") == 0


def shared_experts(config: ModelConfig) -> int:
    """Return how many experts run for every token; files say 0 or null where there are none."""
    return config.keys.optional_id("n_shared_experts") or 0


def scale(config: ModelConfig) -> float:
    """Return what products of queries and keys are multiplied by; YaRN makes it larger."""
    rope = config.rope_parameters
    found: float = config.head_dim**-0.5
    share, factor = rope.get("mscale_all_dim"), rope.get("factor")
    if rope["rope_type"] != "default" and share and isinstance(factor, int | float):
        if not isinstance(share, int | float):
            raise ConfigError(f"config.json: mscale_all_dim is {share!r}, expected a number")
        if factor > 1:
            found *= (0.1 * share * log(factor) + 1.0) ** 2
    return found


def latent_width(config: ModelConfig) -> int:
    """Return how many numbers a token adds to the cache of one layer."""
    return config.keys.count("kv_lora_rank") + config.keys.count("qk_rope_head_dim")


def expanded_width(config: ModelConfig) -> int:
    """Return how many numbers the keys and values of a token are, once made of its latent."""
    made = config.keys.count("qk_nope_head_dim") + config.keys.count("v_head_dim")
    return config.num_attention_heads * (made + config.head_dim)


def decoder(config: ModelConfig, index: int, *, has_correction: bool) -> tuple[TensorSpec, ...]:
    """Return the tensors of a layer; ``has_correction`` of routers with a bias for choosing."""
    hidden = config.hidden_size
    return (
        vector("input_layernorm", hidden),
        *_attention(config),
        vector("post_attention_layernorm", hidden),
        *_mlp(config, index, has_correction=has_correction),
    )


def is_split(config: ModelConfig) -> bool:
    """Tell whether what makes keys of latents and what makes values are two matrices.

    They are in GGUF files, that of the keys the other way round.
    """
    return config.keys.flag("split_kv_b", False)


def _attention(config: ModelConfig) -> tuple[TensorSpec, ...]:
    keys, hidden, heads = config.keys, config.hidden_size, config.num_attention_heads
    bias = config.attention_bias
    rank, rope = keys.count("kv_lora_rank"), keys.count("qk_rope_head_dim")
    nope, value = keys.count("qk_nope_head_dim"), keys.count("v_head_dim")
    query_rank = keys.optional_count("q_lora_rank")
    first = "self_attn."
    if query_rank is None:
        queries = linear(f"{first}q_proj", heads * config.head_dim, hidden)
    else:
        queries = (
            *linear(f"{first}q_a_proj", query_rank, hidden, bias=bias),
            vector(f"{first}q_a_layernorm", query_rank),
            *linear(f"{first}q_b_proj", heads * config.head_dim, query_rank),
        )
    if is_split(config):
        expand = (
            *linear(f"{first}k_b_proj", heads * rank, nope),
            *linear(f"{first}v_b_proj", heads * value, rank),
        )
    else:
        expand = linear(f"{first}kv_b_proj", heads * (nope + value), rank)
    return (
        *queries,
        *linear(f"{first}kv_a_proj_with_mqa", rank + rope, hidden, bias=bias),
        vector(f"{first}kv_a_layernorm", rank),
        *expand,
        *linear(f"{first}o_proj", hidden, heads * value, bias=bias),
    )


def _mlp(config: ModelConfig, index: int, *, has_correction: bool) -> tuple[TensorSpec, ...]:
    keys, hidden = config.keys, config.hidden_size
    if not is_sparse(config, index):
        return gated_mlp(hidden, config.intermediate_size, bias=config.mlp_bias)
    experts, inner = keys.count("n_routed_experts"), keys.count("moe_intermediate_size")
    tensors = linear("mlp.gate", experts, hidden)
    if has_correction:
        tensors += (TensorSpec("mlp.gate.e_score_correction_bias", (experts,)),)
    for number in range(experts):
        tensors += gated_mlp(hidden, inner, prefix=f"mlp.experts.{number}.")
    shared = shared_experts(config)
    if shared:
        tensors += gated_mlp(hidden, shared * inner, prefix="mlp.shared_experts.")
    return tensors
