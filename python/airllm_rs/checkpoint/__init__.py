"""Checkpoints as Hugging Face ships them: a directory, a hub id, ``.bin`` files."""

from airllm_rs.checkpoint.cache_directory import cache_directory
from airllm_rs.checkpoint.gguf.tokenizer import tokenizer_directory
from airllm_rs.checkpoint.model_files import ModelFiles
from airllm_rs.checkpoint.opening import open_checkpoint
from airllm_rs.checkpoint.stored import Layout, StoredPart, StoredWeight, TensorInfo

__all__ = [
    "Layout",
    "ModelFiles",
    "StoredPart",
    "StoredWeight",
    "TensorInfo",
    "cache_directory",
    "open_checkpoint",
    "tokenizer_directory",
]
