"""Mistral: no biases; a sliding window in every layer, where there is one."""

from airllm_rs.models.llama import build

__all__ = ["build"]
