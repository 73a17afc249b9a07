"""A token's logits do not depend on what is computed beside it, to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs.cache.kv import KvCache
from loading import load, streaming
from tiny import FAMILY, prompt, tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from airllm_rs.executors.streaming import StreamingExecutor

TOKENS = 20
PADDING = (0, 5, 2)


def logits_of(
    executor: StreamingExecutor, ids: torch.Tensor, steps: tuple[int, ...], padding: tuple[int, ...]
) -> torch.Tensor:
    """Run ids (B, T) in steps of so many tokens; return the logits of all."""
    cache = KvCache(executor.windows, 64)
    first = torch.tensor(padding)[:, None]
    valid = torch.arange(ids.shape[1]) >= first
    positions = (torch.arange(ids.shape[1]) - first).clamp(min=0)
    found = []
    start = 0
    for tokens in steps:
        stop = start + tokens
        found.append(
            executor.sweep(
                ids[:, start:stop],
                positions=positions[:, start:stop],
                valid=valid[:, :stop] if any(padding) else None,
                cache=cache,
            )
        )
        start = stop
    assert start == ids.shape[1]
    return torch.cat(found, 1)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("mode", ["resident", "streamed", "grouped units"])
@pytest.mark.parametrize("model_type", FAMILY)
def test_a_token_has_the_same_bits_in_any_company(
    model_type: str, mode: str, dtype: str, tmp_path: Path
) -> None:
    # a width that is no multiple of any vector: what is left over is where torch's loops differ
    tiny_checkpoint(model_type, tmp_path, intermediate_size=100)
    ids = prompt(TOKENS)
    with load(tmp_path, mode, requested=dtype) as model, torch.inference_mode():
        executor = streaming(model)
        one_by_one = logits_of(executor, ids, (1,) * TOKENS, (0,))
        ways: tuple[tuple[int, ...], ...] = ((4,) * 5, (TOKENS,), (7, 1, 1, 11))
        for steps in ways:
            assert torch.equal(logits_of(executor, ids, steps, (0,)), one_by_one)
        longest = TOKENS + max(PADDING)
        rows = [prompt(longest, seed=7 + seed) for seed in range(len(PADDING))]
        for row, padding in zip(rows, PADDING, strict=True):
            row[:, padding : padding + TOKENS] = ids
        ways = ((1,) * longest, (5, 4, 10, 1, 1, 4))
        for steps in ways:
            together = logits_of(executor, torch.cat(rows), steps, PADDING)
            for sequence, padding in enumerate(PADDING):
                found = together[sequence, padding : padding + TOKENS]
                assert torch.equal(found, one_by_one[0])
