"""Sweeps: how often weights are read, and what an interruption leaves behind."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs.errors import AirLLMError, BudgetError
from airllm_rs.layers.linear import Linear
from fake_readahead import FakeReadahead
from loading import load, streaming
from tiny import generate, oracle, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airllm_rs.generation.causal_lm import CausalLM

LONG = prompt(40)


def readahead(model: CausalLM) -> FakeReadahead:
    found = model.executor.weights.readahead
    assert isinstance(found, FakeReadahead)
    return found


def streamed(model: CausalLM) -> list[int]:
    return [unit for unit in model.plan.order if unit not in model.plan.residents]


def test_a_prompt_of_many_chunks_is_one_sweep_where_a_layer_is_held(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    with load(tiny_checkpoint("llama"), "chunks held") as model:
        assert model.plan.holds_layer
        assert len(LONG[0]) > 4 * model.plan.chunk_tokens
        model(LONG)
        assert model.executor.sweeps == 1
        assert readahead(model).taken == streamed(model)


def test_a_ring_below_a_layer_takes_a_sweep_per_chunk(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    with load(tiny_checkpoint("llama"), "ring below a layer") as model:
        assert not model.plan.holds_layer
        model(LONG)
        head = model.executor.weights.units_of(["lm_head.weight"])
        body = [unit for unit in model.plan.order if unit not in head]
        assert model.executor.sweeps == 5
        assert readahead(model).taken == body * 5 + sorted(head)
        model(LONG[:, :1])
        assert readahead(model).taken[-len(model.plan.order) :] == list(model.plan.order)


@pytest.mark.parametrize("mode", ["streamed", "grouped units", "ring below a layer"])
def test_a_token_reads_each_streamed_unit_once(
    mode: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    with load(tiny_checkpoint("qwen3"), mode) as model:
        cache = model(LONG[:, :8]).cache
        before = len(readahead(model).taken)
        model(LONG[:, 8:9], cache=cache)
        assert readahead(model).taken[before:] == streamed(model)
        assert readahead(model).leased == []


def test_what_is_in_memory_is_not_scheduled(tiny_checkpoint: Callable[..., Path]) -> None:
    with load(tiny_checkpoint("llama"), "resident") as model:
        model(LONG)
        assert readahead(model).schedules == []
        linears = [module for module in model.modules() if isinstance(module, Linear)]
        assert len(linears) == 15
        assert all(linear.source is not None and linear.source.is_resident for linear in linears)


def test_chunks_do_not_change_logits(tiny_checkpoint: Callable[..., Path]) -> None:
    path = tiny_checkpoint("mistral")
    with torch.no_grad(), load(path, "streamed") as whole:
        want = whole(LONG).logits
    for mode in ("chunks held", "ring below a layer"):
        for use_cache in (True, False):
            with torch.no_grad(), load(path, mode) as model:
                got = model(LONG, use_cache=use_cache, output_hidden_states=True)
                torch.testing.assert_close(got.logits, want, atol=1e-4, rtol=0)
                states = oracle(path)(LONG, output_hidden_states=True).hidden_states
                torch.testing.assert_close(got.hidden_states, states, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["streamed", "chunks held", "ring below a layer", "on demand"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_sweep_leaves_nothing_behind(
    failure: type[BaseException], mode: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == total - 1:
            raise failure("in the middle")

    with torch.no_grad(), load(tiny_checkpoint("llama"), mode) as model:
        want = model(LONG).logits
        cache = model.new_cache(1, 40)
        model(LONG[:, :8], cache=cache)
        streaming(model).on_layer = interrupt
        with pytest.raises(failure, match="middle"):
            model(LONG[:, 8:], cache=cache)
        assert readahead(model).leased == []
        assert cache is not None
        assert cache.get_seq_length() == 8
        streaming(model).on_layer = None
        got = model(LONG[:, 8:], cache=cache).logits
        torch.testing.assert_close(got, want[:, 8:], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("mode", "sweeps"), [("streamed", 1), ("ring below a layer", 5)])
def test_progress_ends_at_its_total(
    mode: str, sweeps: int, tiny_checkpoint: Callable[..., Path]
) -> None:
    seen: list[tuple[int, int]] = []
    with load(tiny_checkpoint("llama"), mode) as model:
        streaming(model).on_layer = lambda done, total: seen.append((done, total))
        model(LONG)
    assert seen == [(done, 2 * sweeps) for done in range(1, 2 * sweeps + 1)]


def test_two_threads_take_turns(tiny_checkpoint: Callable[..., Path]) -> None:
    with load(tiny_checkpoint("llama"), "streamed") as model:
        want = model(LONG).logits
        results: list[torch.Tensor] = []
        threads = [
            threading.Thread(target=lambda: results.append(model(LONG).logits)) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(got, want) for got in results)
        assert len(results) == 3


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_a_longer_request_gives_up_residents(
    kind: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    path = tiny_checkpoint("llama", tie_word_embeddings=kind == "tied")
    with torch.no_grad(), load(path, "part resident", context=40) as model:
        tokens = generate(model, LONG, max_new_tokens=8, do_sample=False)
        logits = model(LONG).logits
        before = model.plan
        assert (before.embedding == "resident") == (kind == "tied")
        table = before.inputs.table
        leave_to_weights(model, before.ring_bytes + table.nbytes(table.always) + 4 * 4096)
        model(prompt(200))
        assert model.plan.context == 200
        assert set(model.plan.residents) < set(before.residents)
        assert model.plan.embedding == "gathered"
        assert torch.equal(model(LONG).logits, logits)
        assert torch.equal(generate(model, LONG, max_new_tokens=8, do_sample=False), tokens)
        assert readahead(model).leased == []


def leave_to_weights(model: CausalLM, nbytes: int) -> None:
    """Make the next plan believe that weights were allowed ``nbytes``."""
    plan = model.plan
    request = replace(plan.inputs.request, weights_bytes=nbytes, max_num_seqs=1)
    inputs = replace(plan.inputs, request=request)
    streaming(model).plan = replace(plan, inputs=inputs, max_num_seqs=1)


def test_what_cannot_be_made_room_for_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    with load(tiny_checkpoint("llama"), "streamed", context=40) as model:
        plan = model.plan
        with pytest.raises(BudgetError, match="context="):
            generate(model, prompt(30), max_new_tokens=10_000_000)
        assert model.plan is plan
        assert model(prompt(5)).logits.isfinite().all()


def test_a_closed_model_says_so(tiny_checkpoint: Callable[..., Path]) -> None:
    with load(tiny_checkpoint("llama"), "part resident") as model:
        model(LONG)
        model.close()
        model.close()
        with pytest.raises(AirLLMError, match="closed"):
            model(LONG)
