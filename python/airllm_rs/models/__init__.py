"""Module trees on meta, one file per architecture, named after ``model_type``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.errors import UnsupportedModelError
from airllm_rs.models import llama, mistral, qwen2, qwen3

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree

_BUILDERS = {
    "llama": llama.build,
    "mistral": mistral.build,
    "qwen2": qwen2.build,
    "qwen3": qwen3.build,
}


def build_model(config: ModelConfig) -> CausalTree:
    """Return the module tree of ``config.model_type``, all of it on meta."""
    builder = _BUILDERS.get(config.model_type)
    if builder is None:
        known = ", ".join(_BUILDERS)
        raise UnsupportedModelError(
            f"no modules for model_type {config.model_type!r}; known: {known}"
        )
    return builder(config)
