"""Baichuan 1 and 2: RoPE in the small ones, ALiBi in the large, a normalised head in Baichuan 2."""

from __future__ import annotations

from math import floor, log2
from typing import TYPE_CHECKING

from airllm_rs.config import ConfigRules
from airllm_rs.errors import ConfigError
from airllm_rs.families.family import Family
from airllm_rs.families.parts import attention, fused_attention, gated_mlp, pre_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec

_NORM_HEAD = "norm_head"
_POSITIONS = "position_embedding"
_SPLIT = "split_qkv"
# What tells the models apart: nothing in config.json says either.
_VOCAB_OF_BAICHUAN_2 = 125_696
_HIDDEN_OF_7B = 4096
_ROPE_CLASS = "BaiChuanForCausalLM"


def _translate(raw: Mapping[str, object]) -> Mapping[str, object]:
    found = dict(raw)
    if raw.get("max_position_embeddings") is None and "model_max_length" in raw:
        found["max_position_embeddings"] = raw["model_max_length"]
    listed = raw.get("architectures")
    has_rope = (
        (isinstance(listed, list) and _ROPE_CLASS in listed)
        or raw.get("hidden_size") == _HIDDEN_OF_7B
        or "max_position_embeddings" in raw
    )
    found.setdefault(_POSITIONS, "rope" if has_rope else "alibi")
    found.setdefault(_NORM_HEAD, raw.get("vocab_size") == _VOCAB_OF_BAICHUAN_2)
    if found[_POSITIONS] not in ("rope", "alibi"):
        raise ConfigError(
            f"config.json: {_POSITIONS} is {found[_POSITIONS]!r}, expected 'rope' or 'alibi'"
        )
    return found


def has_alibi(config: ModelConfig) -> bool:
    """Tell whether positions count by ALiBi, and not by RoPE."""
    return config.keys.text(_POSITIONS) == "alibi"


def has_norm_head(config: ModelConfig) -> bool:
    """Tell whether the rows of the head are of length one when it multiplies."""
    return config.keys.flag(_NORM_HEAD, False)


def is_fused(config: ModelConfig) -> bool:
    """Tell whether queries, keys and values are one matrix; in GGUF files they are three."""
    return not config.keys.flag(_SPLIT, False)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Return the slope of each head.

    Those of the largest power of two p up to ``heads`` are 2^(-8 (i + 1) / p), those of what is
    left lie between them (https://arxiv.org/abs/2108.12409, and the code that came with it).
    """
    power = 2 ** floor(log2(heads))
    first = [2.0 ** (-8.0 * (index + 1) / power) for index in range(power)]
    return (*first, *(2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)))


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    fused = fused_attention(config, "self_attn.W_pack", "self_attn.o_proj")
    return pre_norm(
        config,
        fused if is_fused(config) else attention(config),
        gated_mlp(config.hidden_size, config.intermediate_size),
    )


FAMILY = Family(
    "baichuan",
    _decoder,
    ConfigRules(
        defaults={
            "max_position_embeddings": 4096,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        ignored=frozenset(
            {
                "num_key_value_heads", "sliding_window", "use_sliding_window",
                "max_window_layers", "layer_types", "attention_bias", "mlp_bias",
            }
        ),
        own=frozenset({_NORM_HEAD, _POSITIONS, _SPLIT, "model_max_length"}),
        translate=_translate,
    ),
    scores_heads=lambda config: int(has_alibi(config)),
    positions=lambda config: "alibi" if has_alibi(config) else "rope",
)  # fmt: skip
