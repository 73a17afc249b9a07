"""The comparison with peers reads the kernel, fio and its samples right."""

import json
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path

import fio
import numpy as np
import page_cache
import pytest
import to_gguf
from gguf import GGUFReader
from report import Point, disk_ratio, row_of, rows_of, seconds_per_token, table
from run import parse_arguments, parse_limits, parse_programs, parse_size
from watch import Watched, major_faults, status_bytes, watch


def point(program: str = "airllm_rs", number: int = 0, **changes: object) -> Point:
    """Return a successful run with round figures."""
    made: Point = {
        "limit_bytes": 3 << 30,
        "program": program,
        "round": number,
        "failure": None,
        "import_s": 2.0,
        "load_s": 1.0,
        "first_token_s": 2.0,
        "start_to_first_token_s": 5.0,
        "s_per_token": 2.0,
        "token_ids": [1, 2],
        "prefill_s": [],
        "failcnt": 0,
        "max_usage_bytes": 1 << 30,
        "peak_anon_bytes": 1 << 30,
        "peak_file_bytes": 0,
        "peak_rss_bytes": 1 << 30,
        "major_faults_in_decode": 0,
        "read_bytes": 8,
        "others_cores": 0.0,
        "cached_bytes_after": 0,
        "streamed_bytes_per_sweep": 4 * 10**9,
        "fio_gb_per_s": [2.0, 3.0],
        "own_report": None,
    }
    made.update(changes)  # type: ignore[typeddict-item] # the tests name keys that exist
    return made


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("3GiB", 3 << 30), ("1.2GiB", int(1.2 * (1 << 30))), ("5GB", 5 * 10**9), ("100MB", 10**8)],
)
def test_sizes_are_binary_with_an_i_and_decimal_without(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


def test_a_size_without_a_known_unit_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="no size"):
        parse_size("3 apples")


def test_limits_are_a_list_with_none_in_it() -> None:
    assert parse_limits("none,3GiB") == [None, 3 << 30]


def test_an_unknown_peer_is_refused_by_name() -> None:
    with pytest.raises(ArgumentTypeError, match="unknown: vllm"):
        parse_programs("airllm_rs,vllm")


def test_one_token_has_no_decode_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert seconds_per_token([7.0]) is None
    with pytest.raises(SystemExit):
        parse_arguments(["--tokens", "1"])
    assert "--tokens" in capsys.readouterr().err


def test_seconds_per_token_leave_out_the_first_token() -> None:
    assert seconds_per_token([10.0, 11.0, 14.0]) == 2.0


def test_majflt_is_found_behind_a_name_with_spaces_and_brackets() -> None:
    stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 500 600 77 88 9 9 0 0 20 0 1 0 100"
    assert major_faults(stat) == 77


def test_a_zombie_has_no_memory_and_other_lines_are_skipped() -> None:
    assert status_bytes("Name:\tx y\nState:\tZ (zombie)\nThreads:\t1\n") == {}
    assert status_bytes("RssAnon:\t     8 kB\nThreads:\t3\n") == {"RssAnon": 8192}


def test_faults_outside_the_decode_do_not_count() -> None:
    watched = Watched(0, 0.0, None, 9.0, "", "")
    watched.major_faults = [(1.0, 5), (2.0, 50), (3.0, 52), (4.0, 60)]
    assert watched.major_faults_between(1.5, 3.5) == 2
    assert watched.major_faults_between(8.0, 9.0) == 0


def test_a_watched_process_is_measured_to_its_end(tmp_path: Path) -> None:
    work = "block = bytearray(64 << 20); import time; time.sleep(0.2); print(len(block))"
    watched = watch([sys.executable, "-c", work], tmp_path, None, 1)
    assert watched.failure is None
    assert int(watched.stdout) == 64 << 20
    assert watched.peak_anon_bytes >= 64 << 20
    assert watched.printed is not None
    assert watched.started < watched.printed <= watched.ended <= time.monotonic()


def test_a_failed_process_says_its_last_line(tmp_path: Path) -> None:
    watched = watch([sys.executable, "-c", "raise SystemExit('no such disk')"], tmp_path, None, 1)
    assert watched.failure == "exit 1: no such disk"


def test_the_page_cache_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(5 << 20))
    assert page_cache.read_in([path]) == 5 << 20
    assert page_cache.cached_bytes([path]) == 5 << 20


def test_rows_hold_medians_of_times_and_the_worst_of_the_rest() -> None:
    runs = [
        point(s_per_token=2.0, failcnt=0, prefill_s=[9.0, 5.0]),
        point(number=1, s_per_token=8.0, failcnt=3, prefill_s=[9.0, 6.0]),
        point(number=2, s_per_token=3.0, failcnt=1, prefill_s=[9.0, 7.0]),
    ]
    row = row_of("airllm_rs", runs, ours=1.5)
    assert row["s_per_token"] == 3.0
    assert row["s_per_token_range"] == (2.0, 8.0)
    assert row["times_ours"] == 2.0
    assert row["prefill_s"] == 6.0
    assert row["failcnt"] == 3


def test_a_failed_run_gives_no_time_but_is_told() -> None:
    runs = [point(), point("airllm", failure="killed (out of memory?)", s_per_token=None)]
    ours, theirs = rows_of(runs, "airllm_rs")
    assert (ours["runs"], theirs["runs"]) == (1, 0)
    text = table([ours, theirs])
    assert "airllm: every run failed: killed (out of memory?)" in text
    assert len(text.splitlines()) == 3


def test_the_disk_ratio_uses_fio_of_the_same_minute() -> None:
    # 4 GB at the median of 2 and 3 GB/s take 1.6 s.
    assert disk_ratio(point(s_per_token=2.0)) == pytest.approx(2.0 / 1.6)
    assert disk_ratio(point(fio_gb_per_s=[])) is None


def test_fio_reads_every_file_and_its_notes_are_skipped() -> None:
    names = [word for word in fio.command([Path("/a:b"), Path("/c")]) if "filename" in word]
    assert names == ["--filename=/a\\:b:/c"]
    report = json.dumps({"jobs": [{"read": {"bw_bytes": 2_500_000_000}}]})
    assert fio.bandwidth(f"note: slow\n{report}") == 2.5


def test_rows_of_q_and_k_go_from_halves_to_pairs() -> None:
    # Two heads of four rows: checkpoints rotate rows 0 and 2, 1 and 3; GGUF 0 and 1, 2 and 3.
    rows = np.arange(8, dtype=np.uint16).reshape(8, 1)
    assert to_gguf.halves_to_pairs(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def write_checkpoint(
    directory: Path,
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint16]]]:
    """Write a one-layer llama of random bits and return its tensors."""
    rng = np.random.default_rng(0)
    shapes = {f"model.layers.0.{name}.weight": (8, 8) for name in to_gguf.LAYER_NAMES}
    shapes |= {"model.embed_tokens.weight": (16, 8), "lm_head.weight": (16, 8)}
    sizes: dict[str, tuple[int, ...]] = {"model.norm.weight": (8,)}
    for name, shape in shapes.items():
        sizes[name] = shape[1:] if "norm" in name else shape
    tensors = {
        name: rng.integers(0, 1 << 14, shape, dtype=np.uint16) for name, shape in sizes.items()
    }
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    (directory / "model-00001-of-00001.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + data
    )
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 16,
        "rms_norm_eps": 1e-5,
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tensors


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_gguf_file_holds_every_weight_of_the_checkpoint(
    tmp_path: Path, architecture: to_gguf.Architecture
) -> None:
    tensors = write_checkpoint(tmp_path)
    out = tmp_path / "model.gguf"
    to_gguf.convert(tmp_path, out, architecture)
    read = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(out).tensors}
    assert len(read) == len(tensors) + (2 if architecture == "qwen3" else 0)
    for name, tensor in tensors.items():
        stored = read[to_gguf.gguf_name(name)]
        if tensor.ndim == 1:
            assert stored.dtype == np.float32
            np.testing.assert_array_equal(stored, to_gguf.widen(tensor))
            continue
        is_turned = architecture == "llama" and name.split(".")[-2] in ("q_proj", "k_proj")
        wanted = to_gguf.halves_to_pairs(tensor, 2) if is_turned else tensor
        np.testing.assert_array_equal(stored.view(np.uint16).reshape(wanted.shape), wanted)


def test_rope_that_gguf_would_lose_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "llama", "rope_scaling": {"rope_type": "yarn"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(SystemExit, match="yarn"):
        to_gguf.read_shape(tmp_path)


def test_help_tells_how_it_measures() -> None:
    script = Path(__file__).parents[2] / "benches" / "compare" / "run.py"
    shown = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "s/token is decode only" in shown
