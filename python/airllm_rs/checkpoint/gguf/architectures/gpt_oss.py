"""gpt-oss: gate and up, which alternate in the checkpoint, are matrices of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures.model import (
    Architecture,
    Model,
    attention,
    experts,
    linear,
    norm,
)
from airllm_rs.checkpoint.gguf.names import Part
from airllm_rs.checkpoint.gguf.rope import rope_parameters

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.facts import Facts


def _gpt_oss(facts: Facts) -> Model:
    metadata, shape = facts.metadata, facts.shape()
    count = metadata.required_count("expert_count")
    inner = metadata.required_count("expert_feed_forward_length")
    parameters = rope_parameters(facts, shape)["rope_parameters"]
    assert isinstance(parameters, dict), "as it is made"
    if parameters["rope_type"] == "yarn":
        # as the model was trained; llama.cpp rounds the bounds of what is scaled
        parameters = {**parameters, "truncate": False}
    keys = {
        "attention_bias": True,
        "intermediate_size": inner,
        "num_local_experts": count,
        "num_experts_per_tok": metadata.required_count("expert_used_count"),
        "sliding_window": metadata.required_count("attention.sliding_window"),
        "rope_parameters": parameters,
        "split_gate_up": True,
    }

    def layer(_index: int) -> list[Part]:
        return [
            norm("attn_norm", "input_layernorm", shape.hidden),
            *attention(shape, qkv_bias=True, output_bias=True),
            Part("attn_sinks.weight", "self_attn.sinks", (shape.heads,)),
            norm("post_attention_norm", "post_attention_layernorm", shape.hidden),
            *linear("ffn_gate_inp", "mlp.router", count, shape.hidden, bias=True),
            *experts(count, inner, shape.hidden, bias=True),
        ]

    return Model("gpt_oss", "GptOssForCausalLM", shape, layer, keys)


GPT_OSS = Architecture(_gpt_oss, frozenset({"expert_count"}))
