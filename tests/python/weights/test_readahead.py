"""The extension's readahead under the whole model."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from loading import load, streaming
from tiny import generate, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDS = prompt(30)


def test_reading_starts_without_torch() -> None:
    code = (
        "import airllm_rs.weights.readahead, sys; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("engine", ["auto", "buffered"])
@pytest.mark.parametrize(
    "mode", ["resident", "part resident", "grouped units", "ring below a layer", "on demand"]
)
def test_bytes_from_disk_are_the_bytes(
    mode: str, engine: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    path = tiny_checkpoint("qwen3", tie_word_embeddings=True)
    with torch.no_grad(), load(path, mode) as strict:
        logits = strict(IDS).logits
        tokens = generate(strict, IDS, max_new_tokens=8, do_sample=False)
    with torch.no_grad(), load(path, mode, engine=engine) as model:
        assert torch.equal(model(IDS).logits, logits)
        assert torch.equal(generate(model, IDS, max_new_tokens=8, do_sample=False), tokens)


@pytest.mark.parametrize("mode", ["resident", "part resident", "streamed"])
def test_the_arena_is_no_larger_than_was_planned(
    mode: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    with load(tiny_checkpoint("llama"), mode, engine="auto") as model:
        stats = model.executor.weights.readahead.stats()
        made = model.plan
    pieces = [piece for unit in made.residents for piece in made.units[unit].pieces]
    # the plan counts the widest alignment, a device may have a narrower one
    least = sum(piece.nbytes for piece in pieces) + made.ring_bytes
    assert least - 4096 <= stats["arena_bytes"] <= made.resident_bytes + made.ring_bytes


def test_an_interruption_does_not_hurt_the_readahead(tiny_checkpoint: Callable[..., Path]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with torch.no_grad(), load(tiny_checkpoint("llama"), "streamed", engine="auto") as model:
        want = model(IDS).logits
        for _ in range(5):
            streaming(model).on_layer = interrupt
            with pytest.raises(KeyboardInterrupt):
                model(IDS)
            streaming(model).on_layer = None
            assert torch.equal(model(IDS).logits, want)


def test_gradients_read_the_weights_again(tiny_checkpoint: Callable[..., Path]) -> None:
    path = tiny_checkpoint("llama")
    gradients = []
    for mode in ("resident", "streamed"):
        with load(path, mode, engine="auto") as model:
            rows = model.model.embed_tokens(IDS).clone().requires_grad_()
            logits = model(inputs_embeds=rows, use_cache=False).logits
            logits[0, -1].square().mean().backward()
            assert rows.grad is not None
            gradients.append(rows.grad)
            assert model(IDS).logits.isfinite().all()
    assert torch.equal(*gradients)
