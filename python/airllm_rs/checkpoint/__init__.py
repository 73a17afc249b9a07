"""Checkpoints as Hugging Face ships them: a directory, a hub id, ``.bin`` files."""

from airllm_rs.checkpoint.cache_directory import cache_directory
from airllm_rs.checkpoint.model_files import ModelFiles, TensorInfo
from airllm_rs.checkpoint.opening import open_checkpoint

__all__ = ["ModelFiles", "TensorInfo", "cache_directory", "open_checkpoint"]
