"""Text to token ids and back; transformers' tokenizers, loaded on first use."""

from airllm_rs.tokenizer.detokenizer import Detokenizer
from airllm_rs.tokenizer.loading import load_tokenizer, render_chat, stop_ids

__all__ = ["Detokenizer", "load_tokenizer", "render_chat", "stop_ids"]
