"""Transformers on the numbers that the gguf package makes of a GGUF file's blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from checkpoint.gguf_files import NAMES, unpermute

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel


def dequantized(path: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """Return the model of a file in float32."""
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for n in range(config.num_hidden_layers):
        names |= {f"blk.{n}.{theirs}": f"model.layers.{n}.{ours}" for theirs, ours in NAMES.items()}
    heads_of = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {}
    for tensor in gguf.GGUFReader(path).tensors:
        stem, kind = tensor.name.rsplit(".", 1)
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        heads = heads_of.get(stem.split(".")[-1])
        if heads is not None and config.model_type == "llama":
            numbers = unpermute(numbers, heads)
        state[f"{names[stem]}.{kind}"] = torch.from_numpy(np.array(numbers, np.float32))
    config.tie_word_embeddings = "lm_head.weight" not in state
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    lacking = model.load_state_dict(state, strict=False)
    assert (lacking.unexpected_keys, set(lacking.missing_keys) - {"lm_head.weight"}) == ([], set())
    model.train(mode=False)
    return model
