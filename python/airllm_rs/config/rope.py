"""RoPE parameters, in either spelling of transformers."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from airllm_rs.config.model_config import FULL, SLIDING
from airllm_rs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config.keys import Keys

DEFAULT_THETA = 10_000.0

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
"""Those that transformers has frequencies for."""

# RoPE types whose frequencies depend on the length that the model was first trained for.
_SCALED_FROM_ORIGINAL = ("llama3", "yarn", "longrope")


def rope_parameters(
    keys: Keys, max_positions: int
) -> tuple[Mapping[str, object], Mapping[str, object] | None]:
    """Return the parameters, in transformers 5's spelling, and those of sliding layers if others.

    Raises:
        ConfigError: for a key of a wrong type, or of a kind of layers that is not known.
    """
    found = keys.mapping("rope_scaling") or keys.mapping("rope_parameters")
    nested = {kind: value for kind, value in found.items() if isinstance(value, dict)}
    if not nested:
        local = keys.values.get("rope_local_base_freq")
        sliding = None
        if local is not None:
            # transformers 4: the others are not scaled
            theta = keys.positive("rope_local_base_freq", DEFAULT_THETA)
            sliding = _completed({"rope_theta": theta}, keys, max_positions)
        return _completed(found, keys, max_positions), sliding
    if FULL not in nested or set(nested) - {FULL, SLIDING}:
        raise ConfigError(
            f"config.json: RoPE parameters of {', '.join(nested)}; expected those of "
            f"{FULL} and, if others, of {SLIDING}"
        )
    sliding_parameters = nested.get(SLIDING)
    return (
        _completed(nested[FULL], keys, max_positions),
        None if sliding_parameters is None else _completed(sliding_parameters, keys, max_positions),
    )


def _completed(given: Mapping[str, object], keys: Keys, max_positions: int) -> Mapping[str, object]:
    found = dict(given)
    found.setdefault("rope_theta", keys.positive("rope_theta", DEFAULT_THETA))
    if keys.values.get("partial_rotary_factor") is not None:
        found.setdefault("partial_rotary_factor", keys.positive("partial_rotary_factor", 1.0))
    kind = found.setdefault("rope_type", found.get("type", "default"))
    if not isinstance(kind, str):
        raise ConfigError(f"config.json: rope_type is {kind!r}, expected a string")
    if kind not in ROPE_TYPES:
        raise ConfigError(f"rope_type {kind!r} is not known; known: {', '.join(ROPE_TYPES)}")
    if kind in _SCALED_FROM_ORIGINAL:
        original = keys.optional_count("original_max_position_embeddings")
        if original is not None:
            found["original_max_position_embeddings"] = original
        else:
            found.setdefault("original_max_position_embeddings", max_positions)
    return MappingProxyType(found)
