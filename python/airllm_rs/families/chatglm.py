"""ChatGLM2, ChatGLM3, CodeGeeX2 and the first GLM-4-9B, in the form that THUDM ships them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import ConfigRules, Keys
from airllm_rs.errors import UnsupportedModelError
from airllm_rs.families.family import Family
from airllm_rs.families.parts import fused_attention, fused_mlp, vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec

_THETA = 10_000.0
_NAMES = {
    "num_layers": "num_hidden_layers",
    "ffn_hidden_size": "intermediate_size",
    "kv_channels": "head_dim",
    "padded_vocab_size": "vocab_size",
    "seq_length": "max_position_embeddings",
    "layernorm_epsilon": "rms_norm_eps",
    "add_qkv_bias": "attention_bias",
}
# Switches of the original code that no released model sets otherwise.
_EXPECTED = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
}
_SWITCHES = ("multi_query_attention", "multi_query_group_num", "original_rope", "rope_ratio")


def _translate(raw: Mapping[str, object]) -> Mapping[str, object]:
    for key, expected in _EXPECTED.items():
        if raw.get(key, expected) is not expected:
            raise UnsupportedModelError(
                f"config.json: {key} is {raw[key]!r}; of ChatGLM, only models where it is "
                f"{expected!r} are known"
            )
    found = {_NAMES.get(key, key): value for key, value in raw.items()}
    keys = Keys(raw)
    if keys.flag("multi_query_attention", False):
        found["num_key_value_heads"] = keys.count("multi_query_group_num")
    # the first half of a head turns
    found["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": _THETA * keys.positive("rope_ratio", 1.0),
        "partial_rotary_factor": 0.5,
    }
    found.setdefault("tie_word_embeddings", False)
    return found


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    hidden = config.hidden_size
    return (
        vector("input_layernorm", hidden),
        *fused_attention(
            config,
            "self_attention.query_key_value",
            "self_attention.dense",
            qkv_bias=config.attention_bias,
        ),
        vector("post_attention_layernorm", hidden),
        *fused_mlp(hidden, config.intermediate_size, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    )


def is_interleaved(config: ModelConfig) -> bool:
    """Tell whether queries, keys and values alternate from head to head: not in released models."""
    return not config.keys.flag("multi_query_attention", False)


def turns_pairs(config: ModelConfig) -> bool:
    """Tell whether items turn in pairs, and not with those of the other half."""
    return config.keys.flag("original_rope", True)


FAMILY = Family(
    "chatglm",
    _decoder,
    ConfigRules(
        defaults={"head_dim": None, "eos_token_id": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5},
        ignored=frozenset(
            {
                "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
                "mlp_bias", "rope_scaling", "rope_theta", "partial_rotary_factor",
            }
        ),
        own=frozenset({*_NAMES, *_EXPECTED, *_SWITCHES}),
        translate=_translate,
    ),
    embedding="transformer.embedding.word_embeddings.weight",
    norm="transformer.encoder.final_layernorm.weight",
    head="transformer.output_layer.weight",
    layer_prefix="transformer.encoder.layers.{}.",
    ignorable=(r"transformer\.rotary_pos_emb\.inv_freq",),
)  # fmt: skip
