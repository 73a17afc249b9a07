"""GGUF files, read where they lie: blocks stay as they are, names become the checkpoint's."""

from airllm_rs.checkpoint.gguf.opening import open_gguf

__all__ = ["open_gguf"]
