"""Generation past the length where longrope changes all frequencies, as transformers does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs.cache import KvCache
from loading import load, streaming
from models import in_tree
from tiny import generate, prompt

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS: tuple[dict[str, object], ...] = (
    {"do_sample": False},
    {"do_sample": False, "num_beams": 3},
)


@pytest.mark.parametrize("mode", ["resident", "streamed", "ring below a layer"])
@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "beams"])
def test_all_tokens_are_run_again_where_frequencies_change(
    options: dict[str, object], mode: str, tmp_path: Path
) -> None:
    path = in_tree.write("phi3, partial longrope", tmp_path)  # they change behind 16 tokens
    ids = prompt(12, sequences=2)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    theirs = in_tree.model_of(path)
    with load(path, mode) as model:
        for given in ({}, {"attention_mask": mask}):
            want = generate(theirs, ids, max_new_tokens=12, **given, **options)
            got = generate(model, ids, max_new_tokens=12, **given, **options)
            assert torch.equal(got, want)
        sweeps = model.executor.sweeps
        long = prompt(20)
        assert torch.equal(
            generate(model, long, max_new_tokens=4, do_sample=False),
            generate(theirs, long, max_new_tokens=4, do_sample=False),
        )
        assert model.executor.sweeps > sweeps


def test_tokens_are_run_again_once(tmp_path: Path) -> None:
    path = in_tree.write("phi3, partial longrope", tmp_path)
    with load(path, "resident") as model:
        cache = KvCache(streaming(model).windows, 64)
        with torch.no_grad():
            model(prompt(16), cache=cache)
        inputs = model.prepare_inputs_for_generation(
            prompt(17), next_sequence_length=1, cache=cache, use_cache=True
        )
        assert inputs["input_ids"].shape == (1, 17)  # type: ignore[attr-defined]
        assert cache.get_seq_length() == 0
        with torch.no_grad():
            model(prompt(17), cache=cache)
        inputs = model.prepare_inputs_for_generation(
            prompt(18), next_sequence_length=1, cache=cache, use_cache=True
        )
        assert inputs["input_ids"].shape == (1, 1)  # type: ignore[attr-defined]
        assert cache.get_seq_length() == 17
