"""Points of `bench io`: what is read, in which order, beside fio or without it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from airllm_rs import _core
from airllm_rs.benchmarks import fio, io, plot
from airllm_rs.benchmarks.csv_file import COLUMNS, write_csv
from airllm_rs.benchmarks.trace import Recorded
from airllm_rs.errors import AirLLMError, MissingDependencyError
from airllm_rs.stats import choose_progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MIB = 1 << 20
KEYS = {
    "engine", "block_bytes", "queue_depth", "threads", "pages", "cache", "gb_per_s",
    "samples_gb_per_s", "latency_us", "cpu_ms_per_gb", "requests", "fio_gb_per_s",
}  # fmt: skip
SHOWN = choose_progress(progress=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(range(256)) * (2 * MIB // 256))
    return path


@pytest.fixture
def no_fio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)


def options(**given: object) -> io.SweepOptions:
    small = {"engines": ("buffered",), "blocks": (MIB,), "depths": (2,), "pages": ("4k",)}
    return io.SweepOptions(**{**small, "total_bytes": 2 * MIB, "samples": 2, **given})  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_fio")
def test_every_engine_that_can_read_is_measured(file: Path) -> None:
    points = io.measure([file], options(engines=(), depths=(1, 2)), SHOWN)
    able = [name for name, ok, note, _ in _core.probe_engines(file) if ok and note is None]
    assert [(point.engine, point.queue_depth) for point in points] == [
        (engine, depth) for engine in able for depth in (1, 2)
    ]
    for point in points:
        told = point.to_json()
        assert set(told) >= KEYS
        assert (told["requests"], told["bytes"]) == (2, 2 * MIB)
        assert len(point.rates) == 2
        assert min(point.rates) <= point.gb_per_s <= max(point.rates)
        assert set(point.latency_us) == {"p50", "p99", "p999"}
        assert told["fio_gb_per_s"] is None
        assert told["fio_samples_gb_per_s"] == []
        json.dumps(told, allow_nan=False)


@pytest.mark.usefixtures("no_fio")
def test_rounds_are_interleaved_and_every_other_one_goes_backwards(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    bench = _core.bench_io

    def record(paths: Sequence[Path], **given: object) -> object:
        measured.append(int(str(given["queue_depth"])))
        return bench(paths, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(_core, "bench_io", record)
    io.measure([file], options(depths=(1, 2, 3), samples=3), SHOWN)
    assert measured == [1, 2, 3, 3, 2, 1, 1, 2, 3]


@pytest.mark.usefixtures("no_fio")
def test_threads_are_the_depth_of_engines_that_have_some(file: Path) -> None:
    points = io.measure([file], options(depths=(4, 16), samples=1), SHOWN)
    assert [(point.queue_depth, point.threads) for point in points] == [(4, 4), (16, 8)]
    points = io.measure([file], options(depths=(4, 16), threads=(3,), samples=1), SHOWN)
    assert [(point.queue_depth, point.threads) for point in points] == [(3, 3)]


@pytest.mark.usefixtures("no_fio")
def test_warm_files_are_in_the_page_cache(file: Path) -> None:
    given = options(engines=("direct",), caches=("cold", "warm"), total_bytes=MIB)
    if "direct" not in io.able_engines(file):
        pytest.skip("no direct reads here")
    cold, warm = io.measure([file], given, SHOWN)
    assert [sample["cached_bytes"] for sample in cold.found] == [0, 0]
    assert [sample["cached_bytes"] for sample in warm.found] == [MIB, MIB]


def test_fio_is_measured_beside_each_sample(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        told = {"jobs": [{"read": {"bw_bytes": len(commands) * 1e9}}]}
        return subprocess.CompletedProcess(command, 0, f"note: x\n{json.dumps(told)}", "")

    monkeypatch.setattr(shutil, "which", lambda _: "fio")
    monkeypatch.setattr(subprocess, "run", run)
    [point] = io.measure([file], options(samples=3), SHOWN)
    told = point.to_json()
    assert told["fio_samples_gb_per_s"] == [1, 2, 3]
    assert told["fio_gb_per_s"] == 2
    assert told["fio_ratio"] == point.gb_per_s / 2
    wanted = ["--direct=1", f"--bs={MIB}", "--iodepth=2", "--mem=malloc", f"--io_size={2 * MIB}"]
    assert set(wanted) < set(commands[0])
    assert f"--filename={file}" in commands[0]


def test_fio_that_fails_is_asked_once(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[object] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "engine not loadable")

    monkeypatch.setattr(shutil, "which", lambda _: "fio")
    monkeypatch.setattr(subprocess, "run", run)
    [point] = io.measure([file], options(), SHOWN)
    assert (len(asked), point.fio_gb_per_s, len(point.rates)) == (1, None, 2)
    assert "engine not loadable" in caplog.text


@pytest.mark.skipif(not fio.is_installed(), reason="fio is not installed")
def test_the_real_fio_reads_the_file(file: Path) -> None:
    run = fio.FioRun((file,), MIB, 2, 2 * MIB, is_cold=False, memory="malloc", engine="psync")
    assert (fio.measure(run) or 0) > 0


def test_huge_pages_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved = tmp_path / "nr_hugepages"
    reserved.write_text("3\n")
    monkeypatch.setattr(fio, "HUGE_PAGES", reserved)
    with fio.huge_pages(8 * MIB) as are_there:
        assert (are_there, int(reserved.read_text())) == (True, 4 + fio.SPARE_PAGES)
    assert int(reserved.read_text()) == 3
    monkeypatch.setattr(fio, "HUGE_PAGES", tmp_path / "none")
    with fio.huge_pages(8 * MIB) as are_there:
        assert are_there is False


@pytest.mark.usefixtures("no_fio")
def test_a_replay_reads_the_same_bytes(file: Path) -> None:
    recorded = Recorded([file], [(0, 512, 1000), (0, MIB, 4096), (0, 0, 512)], "uring", 8)
    points = io.measure([file], options(engines=()), SHOWN, replay=recorded)
    for point in points:
        told = point.to_json()
        assert (told["bytes"], told["requests"]) == (recorded.total_bytes, 3)
        assert told["block_bytes"] == 4096


@pytest.mark.usefixtures("no_fio")
def test_csv_has_a_row_per_point(file: Path, tmp_path: Path) -> None:
    points = io.measure([file], options(depths=(1, 2)), SHOWN)
    target = tmp_path / "points.csv"
    write_csv(target, points)
    with target.open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert [row["queue_depth"] for row in rows] == ["1", "2"]
    assert tuple(rows[0]) == COLUMNS
    assert [float(rate) for rate in rows[0]["samples_gb_per_s"].split()] == points[0].rates
    assert rows[0]["fio_gb_per_s"] == ""


@pytest.mark.usefixtures("no_fio")
def test_the_chart_is_a_picture(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = io.measure([file], options(depths=(1, 2)), SHOWN)
    points[0].fio_gbps.append(1.0)
    target = tmp_path / "points.png"
    plot.write_plot(target, points)
    assert target.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'airllm_rs\[bench\]'"):
        plot.require_matplotlib()


def test_of_a_directory_the_weights_are_read(file: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert io.files_at(tmp_path) == [file]
    file.unlink()
    with pytest.raises(AirLLMError, match="nothing to read"):
        io.files_at(tmp_path)
    large = tmp_path / "weights.bin"
    with large.open("wb") as out:
        out.truncate(io.SMALLEST_FILE + 1)
    assert io.files_at(tmp_path) == [large]
    with pytest.raises(FileNotFoundError):
        io.files_at(tmp_path / "none")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engines": ("aio",)}, "--engine is 'aio'"),
        ({"pages": ("1g",)}, "--pages is '1g'"),
        ({"caches": ("hot",)}, "--cache is 'hot'"),
        ({"depths": (0,)}, "--depth is 0"),
        ({"threads": (9,)}, "--threads is 9"),
        ({"samples": 0}, "--samples is 0"),
        ({"throttle_gbps": 0.0}, "--throttle-gbps is 0"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        options(**given)
