"""Gemma 2: norms around attention and MLP, capped scores, every other layer with a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import FULL, SLIDING, ConfigRules, Keys
from airllm_rs.errors import UnsupportedModelError
from airllm_rs.families.family import Family
from airllm_rs.families.parts import attention, gated_mlp, vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec

OWN = frozenset({
    "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
    "hidden_activation",
})  # fmt: skip
IGNORED = frozenset({"use_sliding_window", "max_window_layers", "mlp_bias"})
DEFAULTS: dict[str, object] = {
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def decoder(config: ModelConfig, *, qk_norm: bool) -> tuple[TensorSpec, ...]:
    """Return the tensors of a layer."""
    bias = config.attention_bias
    return (
        vector("input_layernorm", config.hidden_size),
        *attention(config, qkv_bias=bias, output_bias=bias, qk_norm=qk_norm),
        vector("post_attention_layernorm", config.hidden_size),
        vector("pre_feedforward_layernorm", config.hidden_size),
        *gated_mlp(config.hidden_size, config.intermediate_size),
        vector("post_feedforward_layernorm", config.hidden_size),
    )


def translate(raw: Mapping[str, object]) -> dict[str, object]:
    """Give the activation its usual name: the files' ``hidden_act`` is not what was trained."""
    if raw.get("use_bidirectional_attention"):
        raise UnsupportedModelError(
            "config.json: use_bidirectional_attention is true: this is no model that generates"
        )
    found = {key: value for key, value in raw.items() if key != "hidden_act"}
    if raw.get("hidden_activation") is not None:
        found["hidden_act"] = raw["hidden_activation"]
    return found


def _alternating(_keys: Keys, layers: int) -> list[str]:
    return [FULL if index % 2 else SLIDING for index in range(layers)]


def capped_heads(config: ModelConfig) -> int:
    """Return how many heads have their scores kept as a tensor at a time."""
    if config.keys.optional_positive("attn_logit_softcapping") is None:
        return 0
    return config.num_attention_heads // config.num_key_value_heads


FAMILY = Family(
    "gemma2",
    lambda config, _index: decoder(config, qk_norm=False),
    ConfigRules(
        defaults={
            **DEFAULTS,
            "max_position_embeddings": 8192,
            "num_key_value_heads": 4,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        ignored=IGNORED,
        own=OWN,
        translate=translate,
        layer_types=_alternating,
    ),
    scores_heads=capped_heads,
)
