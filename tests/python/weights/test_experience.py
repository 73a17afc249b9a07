"""What a run found out about a model is used by the next plan, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from airllm_rs.checkpoint import StoredWeight, TensorInfo
from airllm_rs.checkpoint.stored import plain
from airllm_rs.families import family_of, read_config
from airllm_rs.memory import MemoryPlan, PlanLimits, PlanRequest, plan
from airllm_rs.memory.flow import Flow, RingLimit
from airllm_rs.weights import experience
from airllm_rs.weights.experience import keep_experience, recall_rate, recall_ring

if TYPE_CHECKING:
    from pathlib import Path

MOST = PlanLimits().ring_bytes
COMPUTING = Flow(8, 10.0, stall_s=0.05, ring_full_s=8.0)
READING = Flow(8, 10.0, stall_s=7.0, ring_full_s=0.1)
UNEVEN = Flow(8, 10.0, stall_s=1.0, ring_full_s=4.0)
CONFIG = read_config(
    {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_hidden_layers": 60,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "vocab_size": 1024,
        "max_position_embeddings": 512,
    }
)


@dataclass
class Layout:
    """Tensors of a model that nobody wrote."""

    places: dict[str, TensorInfo]

    def stored(self, name: str) -> StoredWeight:
        return plain(name, self.places[name])


def layout() -> Layout:
    places, start = {}, 4096
    for layer in family_of(CONFIG).layers(CONFIG):
        for spec in layer.tensors:
            nbytes = 2
            for length in spec.shape:
                nbytes *= length
            places[spec.name] = TensorInfo("BF16", spec.shape, 0, start, nbytes)
            start += nbytes
    return Layout(places)


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models.json"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return [str(tmp_path / "model.safetensors")]


def planned(files: list[str], *, budget: int = 900 << 20) -> MemoryPlan:
    """Plan as a command does."""
    limits = replace(PlanLimits(), ring_bytes=recall_ring(files).nbytes)
    return plan(CONFIG, layout(), PlanRequest(budget, 0, "BF16", context=64, limits=limits))


def test_computing_gives_the_ring_to_residents(files: list[str]) -> None:
    first = planned(files)
    assert first.ring_bytes == MOST
    keep_experience(first, files, COMPUTING)
    second = planned(files)
    assert second.ring_bytes == MOST // 2
    more = second.resident_bytes - first.resident_bytes
    assert MOST // 2 - (8 << 20) <= more <= MOST // 2 + (8 << 20)
    for _ in range(4):
        keep_experience(planned(files), files, COMPUTING)
    layer = planned(files)
    # never below what a prompt needs to pass a layer at a time
    assert layer.holds_layer
    assert layer.ring_bytes < MOST // 2


def test_reading_leaves_the_plan_alone(files: list[str]) -> None:
    first = planned(files)
    keep_experience(first, files, READING)
    assert planned(files) == first


@pytest.mark.parametrize("flow", [READING, UNEVEN])
def test_stalls_give_the_ring_back(files: list[str], flow: Flow) -> None:
    first = planned(files)
    keep_experience(first, files, COMPUTING)
    keep_experience(planned(files), files, flow)
    assert planned(files) == first


def test_another_model_has_a_ring_of_its_own(files: list[str], tmp_path: Path) -> None:
    keep_experience(planned(files), files, COMPUTING)
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"weights")
    assert recall_ring([str(other)]) == RingLimit(MOST)
    # nor is a file that was replaced the same model
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert recall_ring(files) == RingLimit(MOST)


def test_the_rate_is_that_of_the_time_without_stalls(files: list[str]) -> None:
    found = planned(files)
    assert recall_rate(found, files) is None
    swept = sum(found.units[index].nbytes for index in found.order)
    keep_experience(found, files, READING)
    assert recall_rate(found, files) == pytest.approx(8 * swept / 3.0 / 1e9)


def test_of_a_few_rates_the_best_counts(files: list[str]) -> None:
    found = planned(files)
    best = None
    for seconds in (4.0, 3.5, 8.0):
        keep_experience(found, files, Flow(8, seconds, 0.1, 0.0))
        best = best or recall_rate(found, files)
    assert best is not None
    assert recall_rate(found, files) == pytest.approx(best * 3.9 / 3.4)
    for _ in range(5):
        keep_experience(found, files, Flow(8, 8.0, 0.1, 0.0))
    assert recall_rate(found, files) == pytest.approx(best * 3.9 / 7.9)


def test_a_model_that_never_ran_is_like_a_similar_one(files: list[str], tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    found = planned(files)
    keep_experience(found, files, READING)
    assert recall_rate(found, [str(other)]) == recall_rate(found, files)
    # how fast it streams says nothing about a model that fits
    fits = planned(files, budget=4 << 30)
    assert fits.fits
    assert recall_rate(fits, [str(other)]) is None
    # but of the same model it is better than a guess
    assert recall_rate(fits, files) == recall_rate(found, files)
    keep_experience(fits, files, Flow(4, 1.0, 0.0, 0.0))
    assert recall_rate(fits, files) != recall_rate(found, files)


def test_a_rate_far_below_those_of_similar_models_was_disturbed(
    files: list[str], tmp_path: Path, known: Path
) -> None:
    found = planned(files)
    others = []
    for number, seconds in enumerate((2.0, 3.0, 40.0)):
        others.append(str(tmp_path / f"other {number}.safetensors"))
        (tmp_path / f"other {number}.safetensors").write_bytes(b"other")
        keep_experience(found, others[-1:], Flow(8, seconds, 0.0, 0.0))
    rates = [recall_rate(found, [name]) for name in others]
    swept = sum(found.units[index].nbytes for index in found.order)
    assert rates[:2] == pytest.approx([8 * swept / 2e9, 8 * swept / 3e9])
    # slower by a third is a model's own; twenty times slower it is not
    assert rates[2] in rates[:2]
    assert recall_rate(found, files) in rates[:2]
    for _ in range(4):  # until as many runs say the same
        keep_experience(found, others[2:], Flow(8, 40.0, 0.0, 0.0))
    assert recall_rate(found, others[2:]) == pytest.approx(8 * swept / 40e9)
    # of another size it may well be slower
    entries = json.loads(known.read_text())
    for name, entry in entries.items():
        for used in entry["used"].values():
            used["nbytes"] *= 1 if "other 2" in name else 5
            used["gbps"] = used["gbps"][:1]
    known.write_text(json.dumps(entries))
    assert recall_rate(found, others[2:]) == pytest.approx(8 * swept / 40e9)


def test_rates_of_another_machine_are_forgotten(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = planned(files)
    keep_experience(found, files, Flow(8, 1.0, 0.0, 0.0))
    monkeypatch.setattr(experience, "_machine", lambda: "1 core of another processor")
    assert recall_rate(found, files) is None
    keep_experience(found, files, Flow(8, 4.0, 0.0, 0.0))
    swept = sum(found.units[index].nbytes for index in found.order)
    assert recall_rate(found, files) == pytest.approx(8 * swept / 4e9)


def test_a_short_run_says_nothing(files: list[str], known: Path) -> None:
    for flow in (Flow(), Flow(1, 1.0, 0.0, 0.9), Flow(4, 1.0, 1.0, 0.0)):
        keep_experience(planned(files), files, flow)
    assert not known.exists()


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"ring_bytes": "much"},
        {"ring_bytes": -1},
        {"ring_bytes": MOST * 2},
        {"ring_bytes": True},
        {"ring_bytes": 1, "too_small": "no"},
        {"used": 3},
        {"used": {"BF16 streamed": 3}},
        {"used": {"": {"nbytes": 9, "gbps": [1.0]}}},
        {"used": {"BF16 streamed": {"nbytes": 0, "gbps": [1.0]}}},
        {"used": {"BF16 streamed": {"nbytes": 9, "gbps": ["1", None, -1.0, float("nan")]}}},
    ],
)
def test_what_makes_no_sense_is_nothing(files: list[str], known: Path, entry: object) -> None:
    first = planned(files)
    keep_experience(first, files, READING)
    (name,) = json.loads(known.read_text())
    known.write_text(json.dumps({name: entry}))
    assert recall_ring(files) == RingLimit(MOST)
    assert recall_rate(first, files) is None
    keep_experience(first, files, COMPUTING)
    assert recall_ring(files) == RingLimit(MOST // 2)
    for text in ("{", "[" * 100_000):
        known.write_text(text)
        assert recall_ring(files) == RingLimit(MOST)


def test_not_every_model_is_remembered_for_ever(tmp_path: Path, known: Path) -> None:
    for number in range(70):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(b"weights")
        keep_experience(planned([str(file)]), [str(file)], READING)
    names = list(json.loads(known.read_text()))
    assert len(names) == 64
    assert "/69.safetensors" in names[-1]
