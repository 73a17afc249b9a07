"""`airllm-rs bench io`, `bench decode` and `bench kernels`, and traces from run to replay."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from airllm_rs import _core
from airllm_rs.benchmarks import decode, kernels
from airllm_rs.benchmarks.kernel_formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import Outcome

IO = ("bench", "io")
SMALL = ("--block=1MiB", "--depth=2", "--pages=4k", "--bytes=2MiB", "--samples=2", "--no-fio")
TINY = "--weights-memory=3MiB"
MACHINE = {"kernel", "file_system", "device", "huge_pages", "versions", "build_profile", "cpu"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(2 << 20))
    return path


def test_json_has_machine_config_and_points(
    cli: Callable[..., Outcome], file: Path, tmp_path: Path
) -> None:
    table = tmp_path / "points.csv"
    done = cli(*IO, tmp_path, *SMALL, "--engine=buffered", "--json", f"--csv={table}")
    assert done.code == 0
    found = json.loads(done.out)
    assert set(found["machine"]) >= MACHINE
    assert found["config"]["files"] == [{"path": str(file), "nbytes": 2 << 20}]
    [point] = found["points"]
    assert (point["engine"], point["requests"], found["best"]) == ("buffered", 2, 0)
    assert len(point["samples_gb_per_s"]) == 2
    assert len(table.read_text().splitlines()) == 2


def test_the_best_point_is_marked(cli: Callable[..., Outcome], file: Path) -> None:
    done = cli(*IO, file, *SMALL, "--depth=1,2", "--engine=buffered")
    assert done.code == 0
    lines = done.out.splitlines()
    assert "GB/s" in lines[0]
    assert "fio" not in lines[0]
    assert len(lines) == 3
    assert sum(line.startswith("*") for line in lines) == 1


def test_a_run_is_recorded_and_repeated(
    cli: Callable[..., Outcome], model: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    options = ("--max-new-tokens=3", "--temperature=0", "--json", TINY)
    assert cli("run", model, "hello", *options, f"--trace={trace}").code == 0
    told = json.loads(trace.read_text())
    assert {"request", "lease", "layer"} <= {event.get("cat") for event in told["traceEvents"]}
    done = cli(*IO, f"--replay={trace}", "--depth=4", "--pages=4k", "--samples=1", "--json")
    found = json.loads(done.out)
    assert {point["bytes"] for point in found["points"]} == {told["metadata"]["bytes_read"]}
    moved = cli(*IO, model, f"--replay={trace}", "--depth=4", "--pages=4k", "--samples=1")
    assert moved.code == 0


def test_decoding_is_measured(
    cli: Callable[..., Outcome], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "MEMORY_BYTES", 1 << 20)
    trace = tmp_path / "trace.json"
    small = ("--tokens=3", "--prompt-tokens=4", "--rounds=1", TINY)
    done = cli("bench", "decode", model, *small, "--json", f"--trace={trace}")
    found = json.loads(done.out)
    assert set(found["machine"]) >= MACHINE
    assert (found["config"]["tokens"], found["config"]["rounds"]) == (3, 1)
    [point] = found["points"]
    assert point["decode"]["bytes_read"] > 0
    assert point["predicted"]["bytes_per_sweep"] > 0
    sweeps = {e["args"]["sweep"] for e in json.loads(trace.read_text())["traceEvents"]
              if e.get("cat") == "layer"}  # fmt: skip
    assert sweeps == {1, 2, 3, 4, 5}
    shown = cli("bench", "decode", model, *small)
    assert shown.code == 0
    assert "measured ÷ predicted" in shown.out


def test_kernels_of_every_format_are_measured(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "STREAM_BYTES", 1 << 20)
    small = ("--bytes=1KiB", "--cols=256", "--samples=2", "--rows=1,3")
    found = json.loads(cli("bench", "kernels", *small, "--json").out)
    assert set(found["machine"]) >= MACHINE
    assert found["config"]["tier"] == _core.simd_tier()
    points = found["points"]
    assert [point["format"] for point in points[::4]] == list(FORMATS)
    for point in points:
        assert len(point["samples_gb_per_s"]) == len(point["samples_memcpy_gb_per_s"]) == 2
        assert point["weights_per_s"] > 0
        per_weight = point["bytes"] / point["weights"]
        if point["operation"] == "dequantize":
            assert per_weight == {"BF16": 2, "F32": 4}[point["dtype"]]
        else:
            assert 0.25 < per_weight <= 4
    shown = cli("bench", "kernels", *small, "--formats=4bit,Q4_K", f"--tier={_core.simd_tier()}")
    assert shown.code == 0
    assert shown.out.startswith(f"kernels: {_core.simd_tier()}")
    assert len(shown.out.splitlines()) == 2 + 2 * 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((*IO,), 2, "give PATH"),
        ((*IO, "{file}", "--engine=aio"), 2, "--engine is 'aio'"),
        ((*IO, "{file}", "--block=big"), 2, "--block='big'"),
        ((*IO, "{file}", "--block=1000", "--engine=direct", "--no-fio"), 2, "block_bytes"),
        ((*IO, "{file}", "--depth=a"), 2, "--depth is 'a'"),
        ((*IO, "{file}", "--depth=4,,8"), 2, "--depth is '4,,8'"),
        ((*IO, "{file}", "--depth=0"), 2, "--depth is 0"),
        ((*IO, "{file}", "--bytes=0"), 2, "--bytes='0'"),
        ((*IO, "{file}", "--samples=0"), 2, "--samples is 0"),
        ((*IO, "{file}", "--fio", "--latency-us=1"), 2, "--fio cannot"),
        ((*IO, "{file}", "--fio"), 1, "fio is not installed"),
        ((*IO, "{file}.none"), 1, "No such file"),
        ((*IO, "--replay={file}"), 1, "is no trace of airllm-rs"),
        ((*IO, "--replay={file}.none"), 1, "No such file"),
        ((*IO, "{file}", "--csv={file}.none/x.csv"), 1, "No such file"),
        (("bench", "kernels", "--formats=5bit"), 2, "--formats is '5bit'"),
        (("bench", "kernels", "--rows=33"), 2, "--rows is 33"),
        (("bench", "kernels", "--cols=100"), 2, "--cols is 100"),
        (("bench", "kernels", "--samples=0"), 2, "--samples is 0"),
        (("bench", "kernels", "--tier=mmx"), 2, "--tier is 'mmx'"),
        (("bench", "decode", "{model}", "--tokens=1"), 2, "--tokens is 1"),
        (("bench", "decode", "{model}", "--rounds=0"), 2, "--rounds is 0"),
        (("bench", "decode", "{model}", "--trace={file}.none/t"), 1, "No such file"),
        (("run", "{model}", "x", "--trace={file}.none/t"), 1, "No such file"),
    ],
)
def test_what_cannot_be_is_one_line(
    cli: Callable[..., Outcome],
    model: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    done = cli(*(argument.format(file=file, model=model) for argument in arguments))
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert sum(line.startswith("error: ") for line in done.err.splitlines()) == 1
