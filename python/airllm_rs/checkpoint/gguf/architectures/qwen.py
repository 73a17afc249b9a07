"""Qwen of all generations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures.model import (
    Architecture,
    Model,
    Names,
    attention,
    experts,
    fused_attention,
    gated_mlp,
    linear,
    norm,
    pre_norm,
)
from airllm_rs.checkpoint.gguf.rope import rope_parameters
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.facts import Facts, Shape
    from airllm_rs.checkpoint.gguf.names import Part


def _qwen(facts: Facts) -> Model:
    """Return the first generation, which llama.cpp runs without NTK and logn.

    The file does not have the trained length, past which these begin.
    """
    metadata, shape = facts.metadata, facts.shape()
    if shape.inner % 2:
        raise CheckpointError(
            f"{facts.path}: feed_forward_length ({shape.inner}) is odd; it counts gate and up"
        )
    inner, hidden = shape.inner // 2, shape.hidden
    parameters = rope_parameters(facts, shape)["rope_parameters"]
    assert isinstance(parameters, dict), "as it is made"
    if parameters["rope_type"] != "default":
        raise UnsupportedModelError(
            f"{facts.path}: RoPE scaling {parameters['rope_type']!r}, which QWen has not: "
            "cannot be imported"
        )
    keys = {
        "intermediate_size": shape.inner,
        "kv_channels": shape.head_dim,
        "layer_norm_epsilon": metadata.required_number("attention.layer_norm_rms_epsilon"),
        "rotary_emb_base": parameters["rope_theta"],
        "seq_length": metadata.required_count("context_length"),
        "use_dynamic_ntk": False,
        "use_logn_attn": False,
        "no_bias": True,
    }

    def layer(_index: int) -> list[Part]:
        return [
            norm("attn_norm", "ln_1", hidden),
            *fused_attention(shape, "attn.c_attn", "attn.c_proj", bias=True),
            norm("ffn_norm", "ln_2", hidden),
            *linear("ffn_gate", "mlp.w2", inner, hidden),
            *linear("ffn_up", "mlp.w1", inner, hidden),
            *linear("ffn_down", "mlp.c_proj", hidden, inner),
        ]

    names = Names("transformer.wte.weight", "transformer.ln_f.weight", layer="transformer.h.{}.")
    return Model("qwen", "QWenLMHeadModel", shape, layer, keys, names)


def _qwen2(facts: Facts) -> Model:
    shape = facts.shape()
    return Model(
        "qwen2",
        "Qwen2ForCausalLM",
        shape,
        lambda _: pre_norm(shape, attention(shape, qkv_bias=True), gated_mlp(shape)),
        _without_window(facts) | rope_parameters(facts, shape),
    )


def _qwen3(facts: Facts) -> Model:
    shape, bias = facts.shape(), facts.has("attn_q.bias")
    return Model(
        "qwen3",
        "Qwen3ForCausalLM",
        shape,
        lambda _: pre_norm(shape, _normed_attention(shape, bias=bias), gated_mlp(shape)),
        _without_window(facts) | rope_parameters(facts, shape) | {"attention_bias": bias},
    )


def _qwen3_moe(facts: Facts) -> Model:
    metadata, shape, bias = facts.metadata, facts.shape(), facts.has("attn_q.bias")
    count = metadata.required_count("expert_count")
    inner = metadata.required_count("expert_feed_forward_length")
    keys = {
        "attention_bias": bias,
        "num_experts": count,
        "num_experts_per_tok": metadata.required_count("expert_used_count"),
        "moe_intermediate_size": inner,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,  # llama.cpp knows no other
        **_without_window(facts),
        **rope_parameters(facts, shape),
    }

    def layer(_index: int) -> list[Part]:
        router = linear("ffn_gate_inp", "mlp.gate", count, shape.hidden)
        mlp = [*router, *experts(count, inner, shape.hidden)]
        return pre_norm(shape, _normed_attention(shape, bias=bias), mlp)

    return Model("qwen3_moe", "Qwen3MoeForCausalLM", shape, layer, keys)


def _without_window(facts: Facts) -> dict[str, object]:
    if window := facts.metadata.token_id("attention.sliding_window"):
        raise UnsupportedModelError(
            f"{facts.path}: a sliding window of {window}, and nothing says in which layers"
        )
    return {"use_sliding_window": False}


def _normed_attention(shape: Shape, *, bias: bool) -> list[Part]:
    return attention(shape, qkv_bias=bias, output_bias=bias, qk_norm=True)


QWEN = Architecture(_qwen)
QWEN2 = Architecture(_qwen2)
QWEN3 = Architecture(_qwen3)
QWEN3_MOE = Architecture(_qwen3_moe, frozenset({"expert_count"}))
