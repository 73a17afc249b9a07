"""GGUF files, dequantised once to a bf16 checkpoint in Hugging Face's form."""

from airllm_rs.checkpoint.gguf.conversion import import_gguf

__all__ = ["import_gguf"]
