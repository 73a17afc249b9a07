"""ChatGLM 2 and 3 and GLM-4; half of each head turns, in pairs, so that no row was moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures.model import (
    Architecture,
    Model,
    Names,
    attention,
    fused_attention,
    fused_mlp,
    norm,
    pre_norm,
)
from airllm_rs.checkpoint.gguf.rope import rope_parameters
from airllm_rs.errors import UnsupportedModelError

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.facts import Facts, Shape
    from airllm_rs.checkpoint.gguf.names import Part

_THETA = 10_000.0
_NAMES = Names(
    "transformer.embedding.word_embeddings.weight",
    "transformer.encoder.final_layernorm.weight",
    "transformer.output_layer.weight",
    "transformer.encoder.layers.{}.",
)


def _chatglm(facts: Facts) -> Model:
    if not facts.has("attn_qkv.weight"):
        return _glm(facts)
    metadata, shape = facts.metadata, facts.shape(is_partial=True)
    bias = facts.has("attn_qkv.bias")
    parameters = rope_parameters(facts, shape)["rope_parameters"]
    assert isinstance(parameters, dict), "as it is made"
    if parameters["rope_type"] != "default" or shape.turned * 2 != shape.head_dim:
        raise UnsupportedModelError(
            f"{facts.path}: RoPE scaling {parameters['rope_type']!r} of {shape.turned} items of "
            f"heads of {shape.head_dim}; of ChatGLM, only half a head unscaled is known"
        )
    keys = {
        "num_layers": shape.layers,
        "ffn_hidden_size": shape.inner,
        "kv_channels": shape.head_dim,
        "multi_query_attention": True,
        "multi_query_group_num": shape.kv_heads,
        "padded_vocab_size": shape.vocab,
        "seq_length": metadata.required_count("context_length"),
        "layernorm_epsilon": metadata.required_number("attention.layer_norm_rms_epsilon"),
        "rope_ratio": parameters["rope_theta"] / _THETA,
        "attention_bias": bias,
        "add_qkv_bias": bias,
    }

    def layer(_index: int) -> list[Part]:
        first = "self_attention."
        return pre_norm(
            shape,
            fused_attention(shape, f"{first}query_key_value", f"{first}dense", bias=bias),
            fused_mlp(shape, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        )

    return Model("chatglm", "ChatGLMForConditionalGeneration", shape, layer, keys, _NAMES)


def _glm(facts: Facts) -> Model:
    """Return what transformers calls GLM, of which llama.cpp makes a ChatGLM too."""
    shape, bias = facts.shape(is_partial=True), facts.has("attn_q.bias")
    return Model(
        "glm",
        "GlmForCausalLM",
        shape,
        lambda _: pre_norm(shape, attention(shape, qkv_bias=bias), _mlp(shape)),
        rope_parameters(facts, shape) | {"attention_bias": bias},
    )


def _glm4(facts: Facts) -> Model:
    # of the models that see, whose rows were moved
    facts.metadata.require_absent("rope.dimension_sections")
    shape, bias = facts.shape(is_partial=True), facts.has("attn_q.bias")

    def layer(_index: int) -> list[Part]:
        return [
            norm("attn_norm", "input_layernorm", shape.hidden),
            *attention(shape, qkv_bias=bias),
            norm("post_attention_norm", "post_self_attn_layernorm", shape.hidden),
            norm("ffn_norm", "post_attention_layernorm", shape.hidden),
            *_mlp(shape),
            norm("post_ffw_norm", "post_mlp_layernorm", shape.hidden),
        ]

    keys = rope_parameters(facts, shape) | {"attention_bias": bias}
    return Model("glm4", "Glm4ForCausalLM", shape, layer, keys)


def _mlp(shape: Shape) -> list[Part]:
    return fused_mlp(shape, "mlp.gate_up_proj", "mlp.down_proj")


CHATGLM = Architecture(_chatglm)
GLM4 = Architecture(_glm4)
