"""Text to token ids and back; transformers' tokenizers, loaded on first use."""

from airllm_rs.tokenizer.detokenizer import Detokenizer
from airllm_rs.tokenizer.loading import encode_chat, load_tokenizer, stop_ids

__all__ = ["Detokenizer", "encode_chat", "load_tokenizer", "stop_ids"]
