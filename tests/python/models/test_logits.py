"""Logits and greedy tokens against transformers, for each architecture and each way to load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from loading import MODES, load
from tiny import generate, oracle, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROPE = {"rope_theta": 10000.0}

KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "llama, tied, biases": (
        "llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "llama, own head_dim": ("llama", {"head_dim": 8, "hidden_act": "gelu"}),
    "mistral, window exceeded": ("mistral", {"sliding_window": 8}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, window in one layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3, biases": ("qwen3", {"attention_bias": True}),
    "llama3 rope": (
        "llama",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "yarn rope": (
        "qwen2",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "linear rope": ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}),
    "dynamic rope": (
        "llama",
        {
            "max_position_embeddings": 16,
            "rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 4.0},
        },
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_transformers(
    kind: str, mode: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    model_type, overrides = KINDS[kind]
    path = tiny_checkpoint(model_type, **overrides)
    ids = prompt(21, sequences=2)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    # one oracle per call: dynamic RoPE in transformers remembers the longest sequence it saw
    with torch.no_grad(), load(path, mode) as model:
        want = oracle(path)(ids).logits
        torch.testing.assert_close(model(ids).logits, want, atol=1e-4, rtol=0)

        padded = oracle(path)(ids, attention_mask=mask).logits[mask.bool()]
        got = model(ids, attention_mask=mask).logits[mask.bool()]
        torch.testing.assert_close(got, padded, atol=1e-4, rtol=0)

        options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": mask}
        tokens = generate(oracle(path), ids, **options)
        assert torch.equal(generate(model, ids, **options), tokens)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["llama", "mistral, window exceeded", "qwen3, tied"])
def test_prefill_and_decode_are_one_forward(
    kind: str, mode: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    model_type, overrides = KINDS[kind]
    path = tiny_checkpoint(model_type, **overrides)
    ids = prompt(24)
    with torch.no_grad(), load(path, mode) as model:
        want = oracle(path)(ids).logits
        cache = None
        parts = []
        for start, stop in [(0, 13), (13, 14), (14, 15), (15, 20), (20, 24)]:
            step = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
            cache = step.cache
            parts.append(step.logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "mistral, window exceeded", "qwen2"])
def test_what_is_resident_does_not_change_a_bit(
    kind: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    model_type, overrides = KINDS[kind]
    path = tiny_checkpoint(model_type, **overrides)
    ids = prompt(9)
    with torch.no_grad(), load(path, "streamed") as streamed, load(path, "part resident") as part:
        assert torch.equal(streamed(ids).logits, part(ids).logits)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_names_and_shapes_are_the_checkpoints(
    model_type: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    path = tiny_checkpoint(model_type)
    want = {name: tensor.shape for name, tensor in oracle(path).named_parameters()}
    with load(path, "streamed") as model:
        assert {name: tensor.shape for name, tensor in model.named_parameters()} == want
        assert {tensor.device.type for tensor in model.parameters()} == {"meta", "cpu"}
        model(prompt(3))
        assert {tensor.device.type for tensor in model.parameters()} == {"cpu"}


def test_bf16_is_close_and_fp16_is_computed_in_fp32(tiny_checkpoint: Callable[..., Path]) -> None:
    ids = prompt(12)
    for dtype, reference in [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)]:
        path = tiny_checkpoint("llama", dtype=dtype)
        want = oracle(path, reference)(ids).logits.float()
        with torch.no_grad(), load(path, "streamed", requested=None) as model:
            got = model(ids).logits
            assert got.dtype == torch.float32
            loose = 0.1 * float(want.abs().max())
            tolerance = loose if model.dtype == torch.bfloat16 else 1e-4
            torch.testing.assert_close(got, want, atol=tolerance, rtol=0)
            if dtype == torch.float16:
                assert model.dtype == torch.float32
