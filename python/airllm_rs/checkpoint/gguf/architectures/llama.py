"""Llama, and what llama.cpp takes for it: Mistral, Mixtral, InternLM, Yi; Granite is close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures.model import (
    Architecture,
    Model,
    attention,
    experts,
    gated_mlp,
    linear,
    pre_norm,
)
from airllm_rs.checkpoint.gguf.rope import rope_parameters
from airllm_rs.errors import UnsupportedModelError

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.facts import Facts, Shape
    from airllm_rs.checkpoint.gguf.names import Part

_MOE = "block_sparse_moe."


def _llama(facts: Facts) -> Model:
    shape = facts.shape()
    rope = rope_parameters(facts, shape)
    if facts.metadata.token_id("expert_count"):
        return _mixtral(facts, shape, rope)
    attention_bias, mlp_bias = facts.has("attn_q.bias"), facts.has("ffn_gate.bias")
    model_type, model_class = "llama", "LlamaForCausalLM"
    keys: dict[str, object] = {"attention_bias": attention_bias, "mlp_bias": mlp_bias, **rope}
    # Mistral's files say that they are Llama's; only Mistral's have a window in every layer
    if window := facts.metadata.token_id("attention.sliding_window"):
        if attention_bias or mlp_bias:
            raise UnsupportedModelError(
                f"{facts.path}: a sliding window and biases, which Mistral has not: "
                "cannot be imported"
            )
        model_type, model_class = "mistral", "MistralForCausalLM"
        keys["sliding_window"] = window
    return Model(
        model_type,
        model_class,
        shape,
        lambda _: pre_norm(
            shape,
            attention(shape, permuted=True, qkv_bias=attention_bias, output_bias=attention_bias),
            gated_mlp(shape, bias=mlp_bias),
        ),
        keys,
    )


def _mixtral(facts: Facts, shape: Shape, rope: dict[str, object]) -> Model:
    count = facts.metadata.required_count("expert_count")

    def layer(index: int) -> list[Part]:
        mlp = linear("ffn_gate_inp", f"{_MOE}gate", count, shape.hidden)
        if facts.has("ffn_gate.0.weight", index):  # as files before April 2024 have them
            for n in range(count):
                ours = f"{_MOE}experts.{n}."
                mlp += linear(f"ffn_gate.{n}", f"{ours}w1", shape.inner, shape.hidden)
                mlp += linear(f"ffn_up.{n}", f"{ours}w3", shape.inner, shape.hidden)
                mlp += linear(f"ffn_down.{n}", f"{ours}w2", shape.hidden, shape.inner)
        else:
            names = ("w1", "w3", "w2")
            mlp += experts(count, shape.inner, shape.hidden, names=names, prefix=f"{_MOE}experts.")
        return pre_norm(shape, attention(shape, permuted=True), mlp)

    keys = {
        "num_local_experts": count,
        "num_experts_per_tok": facts.metadata.required_count("expert_used_count"),
        "sliding_window": facts.metadata.token_id("attention.sliding_window") or None,
        **rope,
    }
    return Model("mixtral", "MixtralForCausalLM", shape, layer, keys)


def _granite(facts: Facts) -> Model:
    metadata, shape = facts.metadata, facts.shape()
    # where it is false, positions are not turned
    metadata.require_neutral("rope.scaling.finetuned", True)
    keys = {
        "embedding_multiplier": metadata.number("embedding_scale") or 1.0,
        "attention_multiplier": metadata.number("attention.scale") or shape.head_dim**-0.5,
        "residual_multiplier": metadata.number("residual_scale") or 1.0,
        "logits_scaling": metadata.number("logit_scale") or 1.0,
        **rope_parameters(facts, shape),
    }
    return Model(
        "granite",
        "GraniteForCausalLM",
        shape,
        lambda _: pre_norm(shape, attention(shape, permuted=True), gated_mlp(shape)),
        keys,
    )


LLAMA = Architecture(_llama, frozenset({"expert_count"}))
INTERNLM2 = Architecture(_llama)
"""With a matrix each for queries, keys and values, it is Llama."""
GRANITE = Architecture(
    _granite, frozenset({"embedding_scale", "attention.scale", "residual_scale", "logit_scale"})
)
