"""Gemma 2 and 3: the one that their norms add to a weight has been added in the file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures.model import (
    Architecture,
    Model,
    attention,
    gated_mlp,
    norm,
)
from airllm_rs.checkpoint.gguf.rope import rope_parameters
from airllm_rs.config import FULL, SLIDING
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.facts import Facts, Shape
    from airllm_rs.checkpoint.gguf.names import Part

_SHIFT = -1.0
_CAPS = frozenset({"attn_logit_softcapping", "final_logit_softcapping", "attention.scale"})

# The largest models, whose scores are scaled as if heads shared the hidden state.
_LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}

_LOCAL_THETA = 10_000.0
_PERIODS = {"gemma2": 2, "gemma3_text": 6}


def _gemma2(facts: Facts) -> Model:
    shape = facts.shape()
    keys = _keys(facts, shape, "gemma2") | rope_parameters(facts, shape)
    return _model(facts, shape, "gemma2", "Gemma2ForCausalLM", keys)


def _gemma3(facts: Facts) -> Model:
    shape = facts.shape()
    keys = _keys(facts, shape, "gemma3_text")
    local = facts.metadata.number("rope.freq_base_swa") or _LOCAL_THETA
    keys["rope_parameters"] = {
        FULL: rope_parameters(facts, shape)["rope_parameters"],
        SLIDING: {"rope_type": "default", "rope_theta": local},
    }
    return _model(facts, shape, "gemma3_text", "Gemma3ForCausalLM", keys, qk_norm=True)


def _keys(facts: Facts, shape: Shape, model_type: str) -> dict[str, object]:
    metadata = facts.metadata
    scale = metadata.number("attention.scale")
    if scale:
        scalar = scale**-2
    elif shape.layers == _LAYERS_OF_27B[model_type]:
        scalar = shape.hidden / shape.heads
    else:
        scalar = shape.head_dim
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping") or None,
        "final_logit_softcapping": metadata.number("final_logit_softcapping") or None,
        "sliding_window": metadata.token_id("attention.sliding_window") or None,
        "layer_types": _layer_types(facts, shape, _PERIODS[model_type]),
    }


def _layer_types(facts: Facts, shape: Shape, period: int) -> list[str]:
    """Return which layers have a window: all but the last of each period, or as a list says."""
    metadata = facts.metadata
    if not metadata.token_id("attention.sliding_window"):
        return [FULL] * shape.layers
    listed = metadata.flags("attention.sliding_window_pattern")
    if listed is None:
        period = metadata.count("attention.sliding_window_pattern") or period
        listed = [bool((index + 1) % period) for index in range(shape.layers)]
    if len(listed) < shape.layers:
        raise CheckpointError(
            f"{facts.path}: attention.sliding_window_pattern lists {len(listed)} layers of "
            f"{shape.layers}"
        )
    return [SLIDING if has_window else FULL for has_window in listed[: shape.layers]]


def _model(
    facts: Facts,
    shape: Shape,
    model_type: str,
    model_class: str,
    keys: dict[str, object],
    *,
    qk_norm: bool = False,
) -> Model:
    shifted = partial(norm, size=shape.hidden, shift=_SHIFT)

    def layer(_index: int) -> list[Part]:
        return [
            shifted("attn_norm", "input_layernorm"),
            *attention(shape, qk_norm=qk_norm, norm_shift=_SHIFT),
            shifted("post_attention_norm", "post_attention_layernorm"),
            shifted("ffn_norm", "pre_feedforward_layernorm"),
            *gated_mlp(shape),
            shifted("post_ffw_norm", "post_feedforward_layernorm"),
        ]

    return Model(model_type, model_class, shape, layer, keys, norm_shift=_SHIFT)


GEMMA2 = Architecture(_gemma2, _CAPS)
GEMMA3 = Architecture(_gemma3, _CAPS - {"attn_logit_softcapping"})
