"""`AutoModel.from_pretrained`: from a path to a model that generates."""

from airllm_rs.auto.auto_model import (
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
)
from airllm_rs.auto.inspection import inspect

__all__ = [
    "AirLLMBaichuan",
    "AirLLMBaseModel",
    "AirLLMChatGLM",
    "AirLLMInternLM",
    "AirLLMLlama2",
    "AirLLMMistral",
    "AirLLMMixtral",
    "AirLLMQWen",
    "AirLLMQWen2",
    "AutoModel",
    "inspect",
]
