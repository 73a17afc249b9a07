"""Runs language models that are larger than memory by streaming their layers from disk."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs._core import __version__
from airllm_rs.errors import AirLLMError, NotEnoughSpaceException

if TYPE_CHECKING:
    from airllm_rs.auto import (
        AirLLMBaichuan,
        AirLLMBaseModel,
        AirLLMChatGLM,
        AirLLMInternLM,
        AirLLMLlama2,
        AirLLMMistral,
        AirLLMMixtral,
        AirLLMQWen,
        AirLLMQWen2,
        AutoModel,
        inspect,
    )

__all__ = [
    "AirLLMBaichuan",
    "AirLLMBaseModel",
    "AirLLMChatGLM",
    "AirLLMError",
    "AirLLMInternLM",
    "AirLLMLlama2",
    "AirLLMMistral",
    "AirLLMMixtral",
    "AirLLMQWen",
    "AirLLMQWen2",
    "AutoModel",
    "NotEnoughSpaceException",
    "__version__",
    "inspect",
]

if _core.__build_profile__ == "debug":
    warnings.warn("this is a debug build: its timings mean nothing", RuntimeWarning, stacklevel=2)


def __getattr__(name: str) -> object:
    # quick commands import this package and need none of it
    if name in __all__:
        from airllm_rs import auto

        return auto.__dict__[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
