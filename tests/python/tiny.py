"""Tiny checkpoints of random weights, and transformers as the oracle on the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

VOCAB = 160
END = 2

SHAPE: dict[str, object] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
}

FAMILY: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
}


def tiny_checkpoint(
    model_type: str, path: Path, *, dtype: torch.dtype = torch.float32, **overrides: object
) -> Path:
    """Write a checkpoint of random weights to ``path`` and return it.

    Attention is far from uniform, norms and biases are random: a wrong mask or a forgotten bias
    shows.
    """
    config = AutoConfig.for_model(
        model_type, **{**SHAPE, **FAMILY.get(model_type, {}), **overrides}
    )
    generator = torch.Generator().manual_seed(len(model_type))
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.5 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1 + 0.3 * noise)
            elif "embed" in name:
                parameter.copy_(noise)
            else:
                gain = 3.0 if "q_proj" in name or "k_proj" in name or "head" in name else 1.0
                parameter.copy_(noise * (gain / parameter.shape[1] ** 0.5))
        # the end token is never likely: tests say when sequences end
        model.get_output_embeddings().weight[END].zero_()
    model.to(dtype).save_pretrained(path)
    return path


def oracle(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load the checkpoint with transformers."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model


def generate(model: PreTrainedModel, ids: torch.Tensor, **options: object) -> torch.Tensor:
    """Return the tokens that ``model.generate`` makes, prompts included."""
    tokens: torch.Tensor = model.generate(ids, **options)  # type: ignore[operator]
    return tokens


def prompt(tokens: int, sequences: int = 1, seed: int = 0) -> torch.Tensor:
    """Return random ids of shape (sequences, tokens), no special ones among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (sequences, tokens), generator=generator)
