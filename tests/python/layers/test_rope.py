"""Rotary embedding against transformers' modules, for every type and both spellings."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from airllm_rs.errors import ConfigError
from airllm_rs.families import read_config
from airllm_rs.layers.rope import Lengths, RotaryEmbedding, rotate

BASE: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 160,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
}

FACTORS = [1.0 + index / 2 for index in range(8)]

ROPES: dict[str, dict[str, object]] = {
    "default": {"rope_theta": 5e5},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "llama3": {
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "longrope": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "factor": 2.0,
            "original_max_position_embeddings": 24,
            "short_factor": [1.0] * 8,
            "long_factor": FACTORS,
        }
    },
}


@pytest.mark.parametrize("length", [12, 40])
@pytest.mark.parametrize("name", ROPES)
def test_rotation_is_transformers(name: str, length: int) -> None:
    raw = {**BASE, **ROPES[name]}
    theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(raw))
    ours = RotaryEmbedding(read_config(raw))
    assert ours.rope_type == name
    positions = torch.stack([torch.arange(length), (torch.arange(length) - 3).clamp(min=0)])
    query = torch.randn(2, 4, length, 16, generator=torch.Generator().manual_seed(1))
    cos, sin = theirs(query, positions)
    want, _ = apply_rotary_pos_emb(query, query, cos, sin)
    got = rotate(query, ours.rotation(positions, Lengths(length), torch.float32))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_frequencies_depend_on_the_given_length_only(name: str) -> None:
    ours = RotaryEmbedding(read_config({**BASE, **ROPES[name]}))
    positions = torch.arange(4)[None]
    short = ours.rotation(positions, Lengths(12), torch.float32)
    long = ours.rotation(positions, Lengths(40), torch.float32)
    again = ours.rotation(positions, Lengths(12), torch.float32)
    assert not torch.equal(short.cos, long.cos)
    assert torch.equal(short.cos, again.cos)


def test_an_unknown_type_is_named() -> None:
    raw = {**BASE, "rope_scaling": {"rope_type": "spiral", "factor": 2.0}}
    with pytest.raises(ConfigError, match="spiral"):
        RotaryEmbedding(read_config(raw))
