"""DeepSeek V2 and V3; in newer files, keys and values are made by a matrix each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures.model import (
    Architecture,
    Model,
    experts,
    gated_mlp,
    linear,
    norm,
    pre_norm,
)
from airllm_rs.checkpoint.gguf.facts import Shape
from airllm_rs.checkpoint.gguf.names import Part
from airllm_rs.checkpoint.gguf.rope import rope_parameters
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.facts import Facts

_SOFTMAX, _SIGMOID = 1, 2


def _deepseek(facts: Facts) -> Model:
    metadata = facts.metadata
    rope = metadata.required_count("rope.dimension_count")
    head_dim = metadata.count("attention.key_length_mla")
    head_dim = head_dim or metadata.required_count("attention.key_length")
    value = metadata.count("attention.value_length_mla")
    value = value or metadata.required_count("attention.value_length")
    if head_dim <= rope:
        raise CheckpointError(
            f"{facts.path}: queries of {head_dim}, of which rope.dimension_count ({rope}) turn"
        )
    heads = metadata.required_count("attention.head_count")
    shape = Shape(
        layers=facts.layers(),
        hidden=metadata.required_count("embedding_length"),
        inner=metadata.required_count("feed_forward_length"),
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        vocab=facts.vocab(),
        turned=rope,
    )
    gating = metadata.count("expert_gating_func") or _SOFTMAX
    if gating not in (_SOFTMAX, _SIGMOID):
        raise UnsupportedModelError(f"{facts.path}: expert_gating_func is {gating}, not known here")
    keys = _keys(facts, shape, value, is_sigmoid=gating == _SIGMOID)

    def layer(index: int) -> list[Part]:
        mlp = gated_mlp(shape)
        if index >= (metadata.token_id("leading_dense_block_count") or 0):
            mlp = _experts(facts, shape, index)
        return pre_norm(shape, _attention(facts, shape, value), mlp)

    version = "3" if gating == _SIGMOID else "2"
    return Model(f"deepseek_v{version}", f"DeepseekV{version}ForCausalLM", shape, layer, keys)


def _keys(facts: Facts, shape: Shape, value: int, *, is_sigmoid: bool) -> dict[str, object]:
    metadata = facts.metadata
    # files that do not have them are run by llama.cpp without groups, whatever the original does
    groups = metadata.count("expert_group_count") or 1
    method = "group_limited_greedy" if groups > 1 else "greedy"
    return {
        "first_k_dense_replace": metadata.token_id("leading_dense_block_count") or 0,
        "moe_layer_freq": 1,
        "q_lora_rank": metadata.count("attention.q_lora_rank"),
        "kv_lora_rank": metadata.required_count("attention.kv_lora_rank"),
        "qk_rope_head_dim": shape.turned,
        "qk_nope_head_dim": shape.head_dim - shape.turned,
        "v_head_dim": value,
        "n_routed_experts": metadata.required_count("expert_count"),
        "num_experts_per_tok": metadata.required_count("expert_used_count"),
        "n_shared_experts": metadata.token_id("expert_shared_count") or None,
        "moe_intermediate_size": metadata.required_count("expert_feed_forward_length"),
        "n_group": groups,
        "topk_group": metadata.count("expert_group_used_count") or groups,
        **({} if is_sigmoid else {"topk_method": method}),
        "norm_topk_prob": metadata.flag("expert_weights_norm", False),
        "routed_scaling_factor": metadata.number("expert_weights_scale") or 1.0,
        "rope_interleave": True,
        "split_kv_b": _is_split(facts),
        "num_nextn_predict_layers": None,
        **rope_parameters(facts, shape, has_log_multiplier=True, of_head=False),
    }


def _is_split(facts: Facts) -> bool:
    return facts.has("attn_k_b.weight")


def _attention(facts: Facts, shape: Shape, value: int) -> list[Part]:
    metadata, first = facts.metadata, "self_attn."
    latent = metadata.required_count("attention.kv_lora_rank")
    query = metadata.count("attention.q_lora_rank")
    nope = shape.head_dim - shape.turned
    if query is None:
        parts = linear("attn_q", f"{first}q_proj", shape.queries, shape.hidden)
    else:
        parts = [
            *linear("attn_q_a", f"{first}q_a_proj", query, shape.hidden),
            norm("attn_q_a_norm", f"{first}q_a_layernorm", query),
            *linear("attn_q_b", f"{first}q_b_proj", shape.queries, query),
        ]
    ours = f"{first}kv_a_proj_with_mqa"
    parts += linear("attn_kv_a_mqa", ours, latent + shape.turned, shape.hidden)
    parts.append(norm("attn_kv_a_norm", f"{first}kv_a_layernorm", latent))
    if _is_split(facts):
        for theirs, size in (
            ("k_b", (shape.heads, latent, nope)),
            ("v_b", (shape.heads, value, latent)),
        ):
            name = f"{first}{theirs}_proj.weight"
            parts.append(Part(f"attn_{theirs}.weight", name, size, is_flat=True))
    else:
        parts += linear("attn_kv_b", f"{first}kv_b_proj", shape.heads * (nope + value), latent)
    return parts + linear("attn_output", f"{first}o_proj", shape.hidden, shape.heads * value)


def _experts(facts: Facts, shape: Shape, index: int) -> list[Part]:
    metadata, hidden = facts.metadata, shape.hidden
    count = metadata.required_count("expert_count")
    inner = metadata.required_count("expert_feed_forward_length")
    parts = linear("ffn_gate_inp", "mlp.gate", count, hidden)
    if metadata.count("expert_gating_func") == _SIGMOID:
        correction = "mlp.gate.e_score_correction_bias"
        parts.append(Part("exp_probs_b.bias", correction, (count,)))
    parts += experts(count, inner, hidden)
    if shared := (metadata.token_id("expert_shared_count") or 0) * inner:
        first = "mlp.shared_experts."
        parts += linear("ffn_gate_shexp", f"{first}gate_proj", shared, hidden)
        parts += linear("ffn_up_shexp", f"{first}up_proj", shared, hidden)
        parts += linear("ffn_down_shexp", f"{first}down_proj", hidden, shared)
    return parts


DEEPSEEK2 = Architecture(_deepseek, frozenset({"expert_count"}))
