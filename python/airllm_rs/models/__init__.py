"""Module trees on meta, one file per architecture, named after ``model_type``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.errors import UnsupportedModelError
from airllm_rs.models import (
    baichuan,
    chatglm,
    deepseek,
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
    mixtral,
    phi3,
    qwen,
    qwen2,
    qwen3,
    qwen3_moe,
)

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.models.decoder import CausalTree

_BUILDERS = {
    "llama": llama.build,
    "mistral": llama.build,
    "Yi": llama.build,
    "internlm": internlm.build,
    "internlm2": internlm2.build,
    "internlm3": internlm3.build,
    "qwen": qwen.build,
    "qwen2": qwen2.build,
    "qwen3": qwen3.build,
    "chatglm": chatglm.build,
    "glm": glm.build,
    "glm4": glm4.build,
    "baichuan": baichuan.build,
    "phi3": phi3.build,
    "gemma2": gemma2.build,
    "gemma3": gemma3.build,
    "gemma3_text": gemma3.build,
    "mixtral": mixtral.build,
    "qwen3_moe": qwen3_moe.build,
    "deepseek_v2": deepseek.build_v2,
    "deepseek_v3": deepseek.build_v3,
    "gpt_oss": gpt_oss.build,
    "granite": granite.build,
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
