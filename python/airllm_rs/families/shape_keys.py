"""Which keys of config.json a size of a tensor comes from, found by changing each in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airllm_rs.config import Keys
from airllm_rs.errors import AirLLMError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import Family

_FIELDS = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size",
)  # fmt: skip


def keys_behind(config: ModelConfig, family: Family, name: str, axis: int) -> list[str]:
    """Return the keys that the length of one dimension of a tensor follows, with their values.

    Such as ``num_attention_heads (32)`` and ``head_dim (128)`` for the rows of ``q_proj``. The
    names are Hugging Face's, also where the file has others.

    Args:
        config: What the tensor contradicts.
        family: Of the model.
        name: Of the tensor.
        axis: The dimension.
    """
    before = _length(config, family, name, axis)
    return [
        f"{key} ({value})"
        for key, value, changed in _variants(config, family)
        if _length(changed, family, name, axis) not in (None, before)
    ]


def _variants(config: ModelConfig, family: Family) -> Iterator[tuple[str, int, ModelConfig]]:
    for key in _FIELDS:
        value = int(getattr(config, key))
        # fewer of them always divide the heads
        other = 1 if key == "num_key_value_heads" and value > 1 else 2 * value
        try:
            yield key, value, replace(config, **{key: other})  # type: ignore[arg-type]
        except AirLLMError:
            continue  # heads no longer divide
    for key in sorted(family.rules.own):
        own = config.keys.values.get(key)
        if isinstance(own, int) and not isinstance(own, bool) and own > 0:
            keys = Keys({**config.keys.values, key: 2 * own})
            yield key, own, replace(config, keys=keys)


def _length(config: ModelConfig, family: Family, name: str, axis: int) -> int | None:
    """Return the length of a dimension, None where there is no such tensor."""
    try:
        for layer in family.layers(config):
            for spec in layer.tensors:
                if spec.name == name:
                    return spec.shape[axis]
    except AirLLMError:
        return None
    return None
