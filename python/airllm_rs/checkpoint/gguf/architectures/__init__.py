"""How the models of each ``general.architecture`` are read, a file for each family."""

from airllm_rs.checkpoint.gguf.architectures.baichuan import BAICHUAN
from airllm_rs.checkpoint.gguf.architectures.deepseek import DEEPSEEK2
from airllm_rs.checkpoint.gguf.architectures.gemma import GEMMA2, GEMMA3
from airllm_rs.checkpoint.gguf.architectures.glm import CHATGLM, GLM4
from airllm_rs.checkpoint.gguf.architectures.gpt_oss import GPT_OSS
from airllm_rs.checkpoint.gguf.architectures.llama import GRANITE, INTERNLM2, LLAMA
from airllm_rs.checkpoint.gguf.architectures.model import Architecture, Model
from airllm_rs.checkpoint.gguf.architectures.phi3 import PHI3
from airllm_rs.checkpoint.gguf.architectures.qwen import QWEN, QWEN2, QWEN3, QWEN3_MOE

__all__ = ["ARCHITECTURES", "Architecture", "Model"]

ARCHITECTURES = {
    "llama": LLAMA,
    "qwen": QWEN,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "qwen3moe": QWEN3_MOE,
    "internlm2": INTERNLM2,
    "baichuan": BAICHUAN,
    "chatglm": CHATGLM,
    "glm4": GLM4,
    "phi3": PHI3,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "deepseek2": DEEPSEEK2,
    "gpt-oss": GPT_OSS,
    "granite": GRANITE,
}
"""By the name that llama.cpp gives it."""
