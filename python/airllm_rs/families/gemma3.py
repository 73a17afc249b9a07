"""Gemma 3, the text model, alone or inside of the one that sees: one layer in six sees all keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import FULL, SLIDING, ConfigRules, Keys
from airllm_rs.families.family import Family
from airllm_rs.families.gemma2 import DEFAULTS, IGNORED, OWN, capped_heads, decoder, translate

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the whole says counts more than what the text model says.
_OF_THE_WHOLE = (
    "model_type", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
_PATTERN = "sliding_window_pattern"
_LOCAL = "rope_local_base_freq"
_THETA = 1_000_000.0
_LOCAL_THETA = 10_000.0


def _text(raw: Mapping[str, object]) -> dict[str, object]:
    """Return the configuration of the text model in that of the whole."""
    inner = raw.get("text_config")
    found = {**raw, **inner} if isinstance(inner, dict) else dict(raw)
    found |= {key: raw[key] for key in _OF_THE_WHOLE if key in raw}
    found = translate(found)
    nested = found.get("rope_parameters")
    if not isinstance(nested, dict) or FULL not in nested:
        # as transformers 4 spells it: only the layers that see all keys are scaled
        scaling = found.pop("rope_scaling", None)
        found["rope_parameters"] = {
            FULL: {
                "rope_type": "default",
                **(scaling if isinstance(scaling, dict) else {}),
                "rope_theta": found.get("rope_theta", _THETA),
            },
            SLIDING: {"rope_type": "default", "rope_theta": found.get(_LOCAL, _LOCAL_THETA)},
        }
    return found


def _layer_types(keys: Keys, layers: int) -> list[str]:
    period = keys.optional_count(_PATTERN) or 6
    return [SLIDING if (index + 1) % period else FULL for index in range(layers)]


_RULES = ConfigRules(
    defaults={
        **DEFAULTS,
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
    },
    ignored=IGNORED,
    own=OWN | {_PATTERN, _LOCAL, "text_config"},
    translate=_text,
    layer_types=_layer_types,
)

FAMILY = Family(
    "gemma3_text",
    lambda config, _index: decoder(config, qk_norm=True),
    _RULES,
    scores_heads=capped_heads,
)

WHOLE = Family(
    "gemma3",
    FAMILY.decoder,
    _RULES,
    prefixes=("language_model.model.", "model.language_model."),
    ignorable=(
        *FAMILY.ignorable,
        r"(model\.)?(vision_tower|multi_modal_projector)\..*",
    ),
    scores_heads=capped_heads,
)
