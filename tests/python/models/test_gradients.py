"""Gradients pass through the layers of every kind: judged by transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loading import load
from models import in_tree
from tiny import prompt

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from airllm_rs.generation.causal_lm import CausalLM

pytestmark = pytest.mark.usefixtures("one_thread")

# Capped scores and logits, scaled inputs, experts of either orientation, latents.
KINDS = ("gemma2", "granite", "gpt_oss", "qwen3_moe", "deepseek_v3, yarn", "glm4")


def gradient(model: PreTrainedModel | CausalLM, rows: Tensor) -> Tensor:
    """Return that of the embeddings ``rows`` (1, T, hidden)."""
    inputs = rows.clone().requires_grad_()
    logits = model(inputs_embeds=inputs, use_cache=False).logits
    logits[0, -3:].square().mean().backward()
    assert inputs.grad is not None
    return inputs.grad


@pytest.mark.parametrize("mode", ["resident", "streamed"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_transformers(kind: str, mode: str, tmp_path: Path) -> None:
    path = in_tree.write(kind, tmp_path)
    theirs = in_tree.model_of(path)
    for tokens in (5, 40):  # few are multiplied by kernels, many by torch
        rows = theirs.get_input_embeddings()(prompt(tokens)).detach()
        want = gradient(theirs, rows)
        with load(path, mode) as ours:
            difference = (gradient(ours, rows) - want).abs().max() / want.abs().max()
        assert difference < 1e-4
