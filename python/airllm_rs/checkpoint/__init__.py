"""Checkpoints as Hugging Face ships them: a directory, a hub id, ``.bin`` files."""

from airllm_rs.checkpoint.model_files import ModelFiles, TensorInfo

__all__ = ["ModelFiles", "TensorInfo"]
