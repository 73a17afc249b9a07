"""Traces: valid, complete, written at once, and read back for a replay."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from airllm_rs.auto.loading import load_model
from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions, from_keywords
from airllm_rs.benchmarks import io
from airllm_rs.benchmarks.trace import Span, check_target, read_trace, save, write_trace
from airllm_rs.errors import AirLLMError
from airllm_rs.stats import choose_progress
from tiny import prompt

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = 3
SHOWN = choose_progress(progress=False)


@pytest.fixture(scope="module")
def recorded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The trace of a run that streams, and the bytes that it read."""
    options = LoadOptions(weights_memory="3MiB", dtype="float32", context=32, trace=True)
    opened = open_model(checkpoint, options, progress=SHOWN)
    assert not opened.plan.fits
    with load_model(opened, SHOWN) as model:
        steps = list(model.stream_ids(prompt(5), max_new_tokens=TOKENS, do_sample=False))
    assert len(steps) == TOKENS
    nbytes = model.executor.weights.readahead.stats()["bytes_read"]
    file = tmp_path_factory.mktemp("trace") / "run.json"
    write_trace(file, model)
    return file, nbytes


def events(file: Path) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for event in json.loads(file.read_text())["traceEvents"]:
        found[event.get("cat", event["ph"])].append(event)
    return found


def test_requests_are_all_that_was_read(recorded: tuple[Path, int]) -> None:
    file, nbytes = recorded
    told = json.loads(file.read_text())
    requests = events(file)["request"]
    assert sum(event["args"]["nbytes"] for event in requests) == nbytes
    assert told["metadata"]["bytes_read"] == nbytes
    assert told["metadata"]["requests"] == len(requests)
    assert {event["args"]["file"] for event in requests} == {0}
    assert told["metadata"]["plan"]["streamed_bytes_per_sweep"] > 0


def test_every_layer_of_every_sweep_is_there(recorded: tuple[Path, int]) -> None:
    layers = events(recorded[0])["layer"]
    names = ["layers.0", "layers.1", "layers.2", "lm_head"]
    assert [event["name"] for event in layers] == names * TOKENS
    assert [event["args"]["sweep"] for event in layers] == [1] * 4 + [2] * 4 + [3] * 4
    ends = [event["ts"] + event["dur"] for event in layers]
    begins = [event["ts"] for event in layers]
    assert all(begin >= end - 1 for begin, end in zip(begins[1:], ends, strict=False))


def test_leases_lie_within_the_sweeps(recorded: tuple[Path, int]) -> None:
    found = events(recorded[0])
    assert found["lease"]
    assert min(e["ts"] for e in found["lease"]) >= min(e["ts"] for e in found["layer"])


def test_spans_of_a_lane_do_not_overlap(recorded: tuple[Path, int]) -> None:
    lanes = defaultdict(list)
    for event in json.loads(recorded[0].read_text())["traceEvents"]:
        if event["ph"] == "X":
            lanes[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in lanes.values():
        assert all(end <= begin + 1e-2 for (_, end), (begin, _) in pairwise(spans))
    named = {event["tid"] for event in events(recorded[0])["M"]}
    assert named == set(lanes)


def test_a_replay_needs_nothing_but_the_trace(recorded: tuple[Path, int]) -> None:
    file, nbytes = recorded
    found = read_trace(file)
    assert found.total_bytes == nbytes
    options = io.SweepOptions(depths=(4,), pages=("4k",), samples=1)
    for point in io.measure(found.files, options, SHOWN, replay=found):
        told = point.to_json()
        assert (told["bytes"], told["requests"]) == (nbytes, len(found.requests))


def test_files_may_have_moved(recorded: tuple[Path, int], tmp_path: Path) -> None:
    found = read_trace(recorded[0])
    with pytest.raises(AirLLMError, match=r"\.safetensors, which is not in"):
        found.moved_to([tmp_path])
    there = tmp_path / found.files[0].name
    there.touch()
    assert found.moved_to([tmp_path]).files == found.moved_to([there]).files == [there]


@pytest.mark.parametrize(
    "content",
    [
        "no JSON", "[]", "{}", '{"metadata": {}, "traceEvents": []}', "\xff",
        '{"metadata": {"format": "airllm-rs trace", "version": 2, "files": []}}',
        '{"metadata": {"format": "airllm-rs trace", "version": 1, "files": [], "engine": "uring", '
        '"queue_depth": 8}, "traceEvents": [{"cat": "request", "ts": 1, '
        '"args": {"file": 0, "offset": 0, "nbytes": 1}}]}',
    ],
)  # fmt: skip
def test_what_is_no_trace_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(AirLLMError, match="is no trace of airllm-rs"):
        read_trace(file)


def test_a_trace_without_requests_cannot_be_repeated(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    told = {"format": "airllm-rs trace", "version": 1, "files": [], "engine": "x", "queue_depth": 1}
    save(file, [], told)
    with pytest.raises(AirLLMError, match="has no requests"):
        read_trace(file)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text("old")
    with pytest.raises(TypeError):
        save(file, [Span("wait", "x", 0, 1, {})], {"bad": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
    assert file.read_text() == "old"


def test_a_target_is_checked_beforehand(tmp_path: Path) -> None:
    check_target(tmp_path / "t.json")
    with pytest.raises(FileNotFoundError):
        check_target(tmp_path / "none" / "t.json")
    with pytest.raises(IsADirectoryError):
        check_target(tmp_path)


def test_trace_is_no_keyword() -> None:
    with pytest.raises(TypeError, match="trace"):
        from_keywords({"trace": True})
