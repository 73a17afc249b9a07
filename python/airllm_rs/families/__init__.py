"""The families of models that run natively, one file each, found by ``model_type``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed import check_quantization
from airllm_rs.config import ModelConfig, parse_config
from airllm_rs.errors import ConfigError, UnknownModelError
from airllm_rs.families import (
    baichuan,
    chatglm,
    deepseek_v2,
    deepseek_v3,
    gemma2,
    gemma3,
    glm,
    glm4,
    gpt_oss,
    granite,
    internlm,
    internlm2,
    internlm3,
    llama,
    mistral,
    mixtral,
    phi3,
    qwen,
    qwen2,
    qwen3,
    qwen3_moe,
    yi,
)
from airllm_rs.families.bridged import BridgedConfig
from airllm_rs.families.family import Family, Layer, TensorSpec
from airllm_rs.families.nearest import name_patterns, nearest_family
from airllm_rs.families.validation import some, validate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airllm_rs.families.validation import NamedWeights

__all__ = [
    "FAMILIES",
    "Family",
    "Layer",
    "TensorSpec",
    "family_of",
    "nearest_family",
    "read_config",
    "some",
    "understand",
    "unknown_model",
    "validate",
]

_MODULES = (
    llama, mistral, yi, internlm, internlm2, internlm3, qwen, qwen2, qwen3, chatglm, glm, glm4,
    baichuan, phi3, gemma2, gemma3, mixtral, qwen3_moe, deepseek_v2, deepseek_v3, gpt_oss,
    granite,
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (*(module.FAMILY for module in _MODULES), gemma3.WHOLE)
}
"""By ``model_type``, as config.json has it."""


def family_of(config: ModelConfig) -> Family:
    """Return the family of a model.

    Raises:
        UnknownModelError: if its ``model_type`` is not known; lists those that are.
    """
    if isinstance(config, BridgedConfig):
        assert config.family is not None, "the checkpoint was looked at before"
        return config.family
    return _family(config.model_type, config.raw)


def understand(config: ModelConfig, files: NamedWeights) -> tuple[ModelConfig, Family, list[str]]:
    """Return the configuration, placed in this checkpoint, the family, and tensors without a use.

    Raises:
        UnsupportedModelError, CheckpointError: as `family_of` and `validate` do.
    """
    family = family_of(config)
    placed = family.placed(config, files.weight_names())
    return placed, family, validate(placed, family, files)


def read_config(
    raw: Mapping[str, object], overrides: Mapping[str, object] | None = None
) -> ModelConfig:
    """Return the configuration in the contents of a config.json, with its family's defaults.

    Args:
        raw: The parsed file.
        overrides: Keys of config.json laid over what the file says.

    Raises:
        UnsupportedModelError: if the family is not known, or the weights are quantised in a way
            that cannot be read.
        ConfigError: if the file, or an override, makes no sense.
    """
    merged = {**raw, **(overrides or {})}
    model_type = merged.get("model_type")
    if model_type is None:
        raise ConfigError("config.json has no model_type: is this the checkpoint of a model?")
    if not isinstance(model_type, str):
        raise ConfigError(f"config.json: model_type is {model_type!r}, expected a string")
    family = _family(model_type, merged)
    check_quantization(merged)
    return parse_config(raw, rules=family.rules, overrides=overrides)


def _family(model_type: str, raw: Mapping[str, object]) -> Family:
    family = FAMILIES.get(model_type)
    if family is not None:
        return family
    raise unknown_model(raw)


def unknown_model(raw: Mapping[str, object], names: Iterable[str] = ()) -> UnknownModelError:
    """Return the error for a model of no family here: what was found, and what is known.

    Args:
        raw: The contents of config.json.
        names: Of the checkpoint's tensors, where they are known.
    """
    model_type, listed = raw.get("model_type"), list(names)
    why = "is known neither here nor to the installed transformers"
    if raw.get("auto_map"):
        why += (
            ": it could only be run by the code that comes with the checkpoint (auto_map in "
            "config.json), which is never executed"
        )
    found = []
    architectures = raw.get("architectures")
    if isinstance(architectures, list) and architectures:
        model_type = f"{model_type!r} ({', '.join(map(str, architectures))})"
    else:
        model_type = repr(model_type)
    if listed:
        found.append(f"tensors {name_patterns(listed)}")
    nearest = nearest_family(str(raw.get("model_type")), listed, FAMILIES)
    message = f"model_type {model_type} {why}"
    message += f"; found: {'; '.join(found)}" if found else ""
    if nearest is not None:
        share = f" ({nearest.similarity:.0%} of the tensors' names)" if listed else ""
        message += f"; nearest: {nearest.model_type}{share}"
    return UnknownModelError(f"{message}; known: {', '.join(FAMILIES)}")
