"""From a path to text, on tiny checkpoints, against transformers."""

from __future__ import annotations

import gc
import json
import shutil
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import pytest
import torch
from transformers import AutoTokenizer

import airllm_rs
from airllm_rs import AutoModel
from airllm_rs.auto import model as auto_model
from airllm_rs.auto import opening
from airllm_rs.benchmarks.byte_tokenizer import write_byte_tokenizer
from airllm_rs.errors import AirLLMError, BudgetError, UnsupportedModelError
from airllm_rs.memory import PlanLimits
from airllm_rs.memory.flow import RingLimit
from airllm_rs.stats import ProcessMemory
from airllm_rs.weights.experience import recall_rate
from loading import streaming
from tiny import generate, oracle
from tiny import tiny_checkpoint as write_tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from airllm_rs.auto.model import Model

VOCAB = 320
SHAPE = {"vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = write_tiny_checkpoint("llama", tmp_path_factory.mktemp("model"), **SHAPE)  # type: ignore[arg-type]
    write_byte_tokenizer(home, VOCAB)
    return home


def smallest(path: Path, **options: object) -> int:
    """Return the fewest bytes for weights that work."""
    with pytest.raises(BudgetError) as refused:
        AutoModel.from_pretrained(path, weights_memory="1B", **options)  # type: ignore[arg-type]
    return refused.value.smallest_bytes


def load(path: Path, **options: object) -> Model:
    return AutoModel.from_pretrained(
        path,
        dtype="float32",
        progress=False,
        **options,  # type: ignore[arg-type]
    )


def test_the_readme_example_of_airllm_runs_as_written(path: Path) -> None:
    """AirLLM's README, its import changed and `.cuda()` left out."""
    model = AutoModel.from_pretrained(str(path), "auto", "float32", progress=False)
    input_text = ["What is the capital of United States?"]
    input_tokens = model.tokenizer(
        input_text,
        return_tensors="pt",
        return_attention_mask=False,
        truncation=True,
        max_length=128,
        padding=False,
    )
    generation_output = model.generate(
        input_tokens["input_ids"], max_new_tokens=20, use_cache=True, return_dict_in_generate=True
    )
    assert not isinstance(generation_output, torch.Tensor)
    reference = generate(
        oracle(path), input_tokens["input_ids"], max_new_tokens=20, do_sample=False
    )
    assert torch.equal(generation_output.sequences, reference)
    assert isinstance(model.tokenizer.decode(generation_output.sequences[0]), str)
    model.close()


@pytest.mark.parametrize("share", ["everything", "least"])
def test_tokens_are_those_of_transformers_whatever_stays_in_memory(share: str, path: Path) -> None:
    cap = None if share == "everything" else smallest(path, dtype="float32")
    ids = AutoTokenizer.from_pretrained(path)("A test", return_tensors="pt").input_ids
    want = generate(oracle(path), ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    with load(path, weights_memory=cap, context=64) as model:
        assert model.plan.fits == (share == "everything")
        answer = model.stream("A test", max_new_tokens=24, temperature=0)
        text = "".join(answer)
        assert answer.token_ids == want.tolist()
        assert text == answer.text
        assert answer.prompt_tokens == ids.shape[1]
        stats = model.stats
    assert stats["sweeps"] == 24
    weights, io, timings = stats["weights"], stats["io"], stats["timings"]
    assert isinstance(weights, dict)
    assert isinstance(io, dict)
    assert isinstance(timings, dict)
    streamed = weights["streamed_bytes_per_sweep"]
    assert (streamed == 0) == (share == "everything")
    assert io["bytes_read"] >= weights["total_bytes"] - streamed + 23 * streamed
    assert timings["s_per_token"] > 0
    memory = stats["memory"]
    assert isinstance(memory, dict)
    assert 0 < memory["peak_bytes"] <= memory["budget_bytes"]


def test_a_longer_request_than_planned_is_planned_anew(path: Path) -> None:
    with load(path, context=16) as model:
        before = model.plan.context
        ids = torch.randint(3, VOCAB, (1, 40))
        want = generate(oracle(path), ids, max_new_tokens=4, do_sample=False)
        got = generate(model, ids, max_new_tokens=4, do_sample=False)
        assert torch.equal(got, want)
        assert before == 16 < model.plan.context


def test_dropping_a_stream_or_the_model_leaves_nothing_running(path: Path) -> None:
    cap = smallest(path, dtype="float32")
    model = load(path, weights_memory=cap, context=64)
    readahead = model.executor.weights.readahead
    stream = model.stream("abc", max_new_tokens=50, temperature=0)
    next(stream)
    del stream
    assert "".join(model.stream("abc", max_new_tokens=3, temperature=0))
    model.close()
    with pytest.raises(AirLLMError, match="closed"):
        next(model.stream("abc"))
    model.close()
    del model
    gc.collect()
    assert readahead.closed


def test_the_same_seed_makes_the_same_text(path: Path) -> None:
    with load(path) as model:
        first = model.chat("abc", temperature=1.5, seed=3, max_new_tokens=12)
        assert model.chat("abc", temperature=1.5, seed=3, max_new_tokens=12) == first
        assert model.chat("abc", temperature=1.5, seed=4, max_new_tokens=12) != first


def test_airllms_class_names_open_models(path: Path) -> None:
    model = airllm_rs.AirLLMLlama2(str(path), progress=False)
    assert model.plan.fits  # type: ignore[attr-defined]
    model.close()  # type: ignore[attr-defined]
    assert issubclass(airllm_rs.NotEnoughSpaceException, AirLLMError)
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoModel()


def test_overrides_reach_the_plan_and_the_modules(path: Path) -> None:
    with load(path, config_overrides={"num_hidden_layers": 2}) as model:
        assert len(list(streaming(model).tree.model.decoder_layers())) == 2
        assert model.config.num_hidden_layers == 2


def test_remote_code_is_never_run(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with load(path, trust_remote_code=True) as model:
        assert model.plan.fits
    assert [record for record in caplog.records if "trust_remote_code" in record.message]
    strange = path.parent / "strange"
    shutil.copytree(path, strange)
    config = json.loads((strange / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (strange / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="never executed"):
        load(strange)


def test_a_budget_too_small_names_one_that_works(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the process of the tests grows from one to the next
    monkeypatch.setattr(opening, "process_memory", ProcessMemory)
    with pytest.raises(BudgetError, match="smallest that works is") as refused:
        load(path, memory="300MiB")
    with load(path, memory=refused.value.smallest_bytes) as model:
        assert model.chat("ab", max_new_tokens=2, temperature=0) is not None


def test_a_run_leaves_what_the_next_plan_needs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path))
    ids = torch.arange(5, 15)[None]
    # what is slowed down, or not read ahead, says nothing about the machine
    unreal: tuple[dict[str, object], ...] = (
        {"throttle_gbps": 5.0},
        {"latency_us": 1},
        {"prefetching": False},
    )
    for options in ({}, *unreal):
        (tmp_path / "models.json").unlink(missing_ok=True)
        with load(path, weights_memory=smallest(path), **options) as model:
            generate(model, ids, max_new_tokens=8, do_sample=False)
            plan, files = model.plan, model.opened.files.files
        assert (recall_rate(plan, files) is not None) == (not options)
    limit = RingLimit(PlanLimits().ring_bytes // 2)
    monkeypatch.setattr(opening, "recall_ring", lambda _: limit)
    for options, most in (({}, limit.nbytes), (unreal[0], PlanLimits().ring_bytes)):
        with load(path, weights_memory=smallest(path), **options) as model:
            assert model.plan.inputs.request.limits.ring_bytes == most


def test_a_baseline_is_never_too_small_while_residents_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    baseline, arena, recorded = 700, iter((100, 150)), list[int]()
    model = MagicMock()
    model.executor.weights.readahead.stats = lambda: {"arena_resident_bytes": next(arena)}
    model._peak.sample = lambda: ProcessMemory(baseline + next(arena))
    monkeypatch.setattr(auto_model, "record_baseline", recorded.append)
    auto_model.Model._settle_baseline(model)
    assert recorded[0] >= baseline


def test_a_smaller_ring_is_logged(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for nbytes, lines in ((PlanLimits().ring_bytes, 0), (64 << 20, 1)):
        limit = RingLimit(nbytes)
        monkeypatch.setattr(opening, "recall_ring", lambda _, limit=limit: limit)
        caplog.clear()
        with caplog.at_level("INFO", "airllm_rs"), load(path, weights_memory=smallest(path)):
            pass
        said = [line for line in caplog.messages if line.startswith("ring: ")]
        assert len(said) == lines
        assert all("no larger than it must be above 64MiB" in line for line in said)


def test_memory_is_locked_on_request(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "airllm_rs"), load(path, mlock=True) as model:
        generate(model, torch.arange(5, 15)[None], max_new_tokens=1)
        locked = model.executor.weights.readahead.stats()["locked_bytes"]
    refused = [line for line in caplog.messages if "ulimit -l" in line]
    assert len(refused) == (0 if locked else 1)
    with load(path) as model:
        generate(model, torch.arange(5, 15)[None], max_new_tokens=1)
        assert model.executor.weights.readahead.stats()["locked_bytes"] == 0
