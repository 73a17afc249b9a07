"""Counters have the names of the surface, and progress goes where it is looked at."""

import gc
import json
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest

from airllm_rs.stats import (
    IoCounters,
    MemoryCounters,
    PeakMemory,
    RunCounters,
    Timings,
    choose_progress,
    process_memory,
)
from airllm_rs.stats.progress import BarProgress, LogProgress, NoProgress, amount, duration


def test_memory_is_counted_as_the_kernel_does(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left is not to be freed meanwhile
    before = process_memory()
    assert before.anon_bytes > 0
    assert before.total_bytes == before.anon_bytes + before.file_bytes
    peak = PeakMemory()
    block = bytearray(256 << 20)
    block[::4096] = b"x" * len(block[::4096])
    peak.sample()
    del block
    peak.sample()
    assert peak.anon_bytes >= before.anon_bytes + (128 << 20)
    assert peak.total_bytes >= peak.anon_bytes
    assert process_memory(tmp_path / "absent").total_bytes == 0


def test_json_has_the_keys_of_the_surface() -> None:
    io: dict[str, int | str] = {
        "engine": "uring", "bytes_read": 4 * 10**9, "requests": 3, "busy_ns": 2 * 10**9,
    }  # fmt: skip
    counters = RunCounters(
        total_bytes=5,
        timings=Timings(load_s=1.0, decode_s=4.0, decoded_tokens=8),
        io=IoCounters.from_readahead({**io, "stall_ns": 10**9}),
        memory=MemoryCounters(budget_bytes=7, peak_bytes=6),
    )
    printed = json.loads(json.dumps(counters.to_json()))
    assert printed["timings"] == {
        "load_s": 1.0, "first_token_s": 0.0, "decode_s": 4.0, "tokens_per_s": 2.0,
        "s_per_token": 0.5,
    }  # fmt: skip
    assert printed["weights"] == {
        "total_bytes": 5, "resident_bytes": 0, "streamed_bytes_per_sweep": 0, "scheme": None,
    }  # fmt: skip
    assert printed["io"] == {
        "engine": "uring", "bytes_read": 4 * 10**9, "requests": 3, "busy_s": 2.0, "stall_s": 1.0,
        "gb_per_s": 2.0,
    }  # fmt: skip
    assert printed["memory"] == {"budget_bytes": 7, "peak_bytes": 6, "file_mapped_bytes": 0}
    assert printed["draft"] == {"proposed": 0, "accepted": 0}
    assert printed["experts"] == {"hits": 0, "misses": 0}
    assert printed["sweeps"] == 0


def test_one_token_has_no_rate() -> None:
    assert Timings(first_token_s=2.0).to_json()["s_per_token"] == 0.0
    assert IoCounters().to_json()["gb_per_s"] == 0.0


def test_counters_of_a_part_are_a_difference() -> None:
    late = IoCounters("direct", 10, 5, 3.0, 2.0)
    early = IoCounters("direct", 4, 2, 1.0, 0.5)
    assert late.since(early) == IoCounters("direct", 6, 3, 2.0, 1.5)


def test_progress_is_chosen_by_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(choose_progress(None), LogProgress)
    assert isinstance(choose_progress(True), BarProgress)
    assert isinstance(choose_progress(False), NoProgress)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(choose_progress(None), BarProgress)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", ModuleType("zmqshell"))
    assert isinstance(choose_progress(None), LogProgress), "no ipywidgets here"


def test_a_line_is_logged_every_so_often(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0

    def clock() -> float:
        return now

    caplog.set_level(logging.INFO)
    with LogProgress(30.0, clock).task("loading weights", 4_000_000_000) as task:
        for now in (10.0, 20.0, 31.0, 40.0, 62.0):  # noqa: B007 the clock reads it
            task.advance(500_000_000)
    assert caplog.messages == [
        "loading weights: 1.5 GB of 4 GB (38%), 48.4 MB/s, 52 s left",
        "loading weights: 2.5 GB of 4 GB (62%), 40.3 MB/s, 37 s left",
        "loading weights: done in 1 min 2 s",
    ]


def test_what_is_quick_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with LogProgress().task("layers", 3, unit="layers") as task:
        task.update(3)
    assert caplog.messages == []


def test_bars_are_drawn_on_stderr_and_removed(capfd: pytest.CaptureFixture[str]) -> None:
    progress = BarProgress()
    with progress.task("reading", 100) as outer:
        outer.advance(50)
        with progress.task("layers", None, unit="layers") as inner:
            inner.update(2, 4)
    with progress.task("again", 1) as task:
        task.advance(1)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("count", "unit", "text"),
    [
        (0, "B", "0 B"), (999, "B", "999 B"), (1234, "B", "1.23 kB"), (6.24e9, "B", "6.24 GB"),
        (139e9, "B", "139 GB"), (1e13, "B", "10000 GB"), (28, "layers", "28 layers"),
        (0.52, "layers", "0.52 layers"),
    ],
)  # fmt: skip
def test_amounts_are_short(count: float, unit: str, text: str) -> None:
    assert amount(count, unit) == text


def test_durations_are_short() -> None:
    assert [duration(s) for s in (0.4, 59, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 5 min"]
