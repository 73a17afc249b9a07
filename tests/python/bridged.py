"""Tiny models of transformers, each unlike the others, for what runs through its own layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tiny import END, VOCAB

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

IDS: dict[str, object] = {
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
}
PLAIN: dict[str, object] = {
    **IDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED: dict[str, object] = {**PLAIN, "num_key_value_heads": 2}
GPT: dict[str, object] = {**IDS, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
EXPERTS: dict[str, object] = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS: dict[str, object] = {"num_local_experts": 4, "num_experts_per_tok": 2}
