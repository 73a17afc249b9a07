"""Stores hold the checkpoint's weights, complete or not at all, whoever is killed when."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

import airllm_rs
from airllm_rs import _core
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.checkpoint.safetensors_files import RECORDS
from airllm_rs.checkpoint.writing import INDEX
from airllm_rs.errors import (
    BudgetError,
    CheckpointError,
    NotEnoughSpaceException,
    StoreError,
)
from airllm_rs.stats import process_memory
from airllm_rs.stats.progress import NoProgress
from airllm_rs.store import make_store, read_store
from airllm_rs.store.verification import verify_at_load, verify_store
from store_making import SHAPE, decode, make, manifest, relative_error, request, tensors
from tiny import oracle, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMITS = {"8bit": 4.0e-5, "4bit": 6.0e-3, "4bit-hq": 4.8e-3}
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "model"
    tiny_checkpoint("qwen2", path, dtype=torch.bfloat16, **SHAPE)
    (path / "tokenizer.json").write_text("{}")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path


@pytest.fixture(scope="module")
def original(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def test_a_store_of_no_scheme_has_the_tensors_bit_for_bit(
    model: Path, original: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    made = make(model, tmp_path / "store")
    stored = tensors(tmp_path / "store")
    assert stored.keys() == original.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in original.items())
    assert made.files_made == len(list((tmp_path / "store").glob("*.safetensors")))


def test_a_store_is_a_checkpoint_for_transformers_and_for_us(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path / "store")
    ids = torch.tensor([[3, 5, 7]])
    with torch.no_grad():
        assert torch.equal(oracle(tmp_path / "store")(ids).logits, oracle(model)(ids).logits)
    opened = open_checkpoint(tmp_path / "store")
    assert not any(name.startswith("__pad__") for name in opened.names())
    for name in ("tokenizer.json", "chat_template.jinja", "config.json", "generation_config.json"):
        assert (tmp_path / "store" / name).exists()


@pytest.mark.parametrize("scheme", ["8bit", "4bit", "4bit-hq"])
def test_encoded_matrices_decode_to_nearly_the_original(
    model: Path, original: dict[str, torch.Tensor], tmp_path: Path, scheme: str
) -> None:
    make(model, tmp_path / "store", scheme=scheme)
    stored = tensors(tmp_path / "store")
    for name, expected in original.items():
        is_encoded = f"{name}.q" in stored
        kept = "norm" in name or "embed" in name or name.endswith("bias")
        assert is_encoded is not kept, name
        if kept:
            assert torch.equal(stored[name], expected)
        else:
            limit = LIMITS["8bit" if "lm_head" in name else scheme]
            assert relative_error(decode(stored, name), expected) < limit
    assert stored["lm_head.weight.q"].dtype == torch.int8


def test_parts_of_a_matrix_lie_together_where_direct_reads_begin(
    model: Path, tmp_path: Path
) -> None:
    make(model, tmp_path / "store", scheme="4bit")
    opened = _core.Checkpoint.open(tmp_path / "store")
    assert opened.metadata["airllm_rs.format_version"] == "1"
    assert json.loads(opened.metadata["airllm_rs.scheme"])["name"] == "4bit"
    q, scale, row = (opened.tensor(f"{Q}.{part}") for part in ("q", "scale", "row"))
    assert q[3] % 4096 == 0
    for before, after in ((q, scale), (scale, row)):
        assert after[3] % 64 == 0
        assert 0 <= after[3] - (before[3] + before[4]) < 64


def test_a_tied_head_gets_a_copy_of_its_own(tmp_path: Path) -> None:
    shape = {**SHAPE, "tie_word_embeddings": True}
    model = tiny_checkpoint("llama", tmp_path / "model", dtype=torch.float16, **shape)
    table = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    make(model, tmp_path / "dense")
    assert not (tmp_path / "dense" / "lm_head.safetensors").exists()
    make(model, tmp_path / "store", scheme="4bit")
    stored = tensors(tmp_path / "store")
    assert torch.equal(stored["model.embed_tokens.weight"], table)
    assert relative_error(decode(stored, "lm_head.weight"), table) < LIMITS["8bit"]


def test_nf4_stores_are_bitsandbytes(
    model: Path, original: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    make(model, tmp_path / "store", scheme="nf4")
    stored = tensors(tmp_path / "store")
    assert torch.equal(stored["lm_head.weight"], original["lm_head.weight"])
    state = json.loads(bytes(stored[f"{Q}.quant_state.bitsandbytes__nf4"].tolist()))
    assert state == {
        "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [256, 256]
    }  # fmt: skip
    config = json.loads((tmp_path / "store" / "config.json").read_text())
    assert config["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    functional = pytest.importorskip("bitsandbytes.functional")
    parts = {key.removeprefix(f"{Q}."): tensor for key, tensor in stored.items() if f"{Q}." in key}
    quantised = functional.QuantState.from_dict(parts, device=torch.device("cpu"))
    found = functional.dequantize_4bit(stored[Q], quantised)
    theirs, state_of_theirs = functional.quantize_4bit(
        original[Q].float(), blocksize=64, quant_type="nf4"
    )
    assert torch.equal(stored[Q], theirs)
    assert torch.equal(parts["absmax"], state_of_theirs.absmax)
    assert relative_error(found.float(), original[Q]) < 1e-2


def test_a_matrix_with_nan_stays_as_it_is_and_the_log_says_so(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    weights = load_file(broken / "model.safetensors")
    weights[Q][17, 3] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    make(broken, tmp_path / "store", scheme="4bit")
    stored = tensors(tmp_path / "store")
    assert torch.equal(stored[Q].isnan(), weights[Q].isnan())
    assert f"{Q.replace('q_proj', 'k_proj')}.q" in stored
    assert f"{Q} holds NaN or infinity" in caplog.text


def test_making_it_again_does_nothing(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path / "store", scheme="8bit")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    made = make(model, tmp_path / "store", scheme="8bit")
    assert (made.files_made, made.read_bytes) == (0, 0)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    assert {path for path in before if before[path] != after[path]} <= {
        tmp_path / "store" / ".airllm_rs.lock"
    }


def test_finished_layers_are_not_made_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(model, tmp_path / "whole", scheme="4bit")
    write, calls = _core.write_store, 0

    def interrupted(
        directories: object, sources: object, files: list[object], **options: object
    ) -> object:
        nonlocal calls
        calls += 1
        write(directories, sources, files[:3], **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(_core, "write_store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(model, tmp_path / "store", scheme="4bit")
    monkeypatch.setattr(_core, "write_store", write)
    with pytest.raises(CheckpointError, match="not finished"):
        open_checkpoint(tmp_path / "store")
    made = make(model, tmp_path / "store", scheme="4bit")
    assert (made.files_made, made.files_kept) == (whole.files_made - 3, 3)
    assert manifest(tmp_path / "store")["files"] == manifest(tmp_path / "whole")["files"]
    assert not (tmp_path / "store" / ".airllm_rs-progress").exists()


KILLED = """
import sys
from pathlib import Path
from store_making import make
make(Path(sys.argv[1]), Path(sys.argv[2]), scheme="4bit")
"""


def run(model: Path, store: Path) -> subprocess.Popen[bytes]:
    paths = [str(Path(airllm_rs.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", KILLED, str(model), str(store)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a file is there, or the process has ended."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.0005)  # nothing tells when a file appears


@pytest.mark.parametrize(
    "appears", ["config.json", "layers.0.safetensors", "lm_head.safetensors", INDEX]
)
def test_a_killed_process_leaves_nothing_or_all(model: Path, tmp_path: Path, appears: str) -> None:
    store = tmp_path / "store"
    process = run(model, store)
    wait_for(store / appears, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if read_store(store) is None:
        make(model, store, scheme="4bit")
    verify_store(store, NoProgress())
    assert not list(store.glob("*.tmp"))


def test_two_processes_end_with_one_valid_store(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    processes = [run(model, store) for _ in range(2)]
    for process in processes:
        assert (process.communicate()[1], process.returncode) == (b"", 0)
    verify_store(store, NoProgress())


def test_a_store_of_another_checkpoint_or_scheme_is_never_replaced(
    model: Path, tmp_path: Path
) -> None:
    make(model, tmp_path / "store", scheme="8bit")
    with pytest.raises(StoreError, match="compression=8bit, not 4bit: remove it"):
        make(model, tmp_path / "store", scheme="4bit")
    other = tiny_checkpoint("llama", tmp_path / "other", dtype=torch.float16, **SHAPE)
    with pytest.raises(StoreError, match=r"made of other files than .*other has: remove it"):
        make(other, tmp_path / "store", scheme="8bit")
    changed = tmp_path / "model"
    shutil.copytree(model, changed)
    make(changed, tmp_path / "second")
    os.utime(changed / "model.safetensors", ns=(1, 1))
    with pytest.raises(StoreError, match="made of other files"):
        make(changed, tmp_path / "second")


def test_a_part_of_another_store_is_never_written_over(model: Path, tmp_path: Path) -> None:
    first, second, third = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    make(model, first, second)
    before = {path: path.read_bytes() for disk in (first, second) for path in disk.glob("*.s*")}
    for directories in ((third, second), (second,), (second, third), (third, first)):
        with pytest.raises(StoreError, match=r"airllm-rs cache rm .*, or choose another"):
            make(model, *directories, scheme="4bit")
    assert {path: path.read_bytes() for path in before} == before
    verify_store(first, NoProgress())
    # as if it was interrupted before the last step
    (first / "airllm_rs.json").unlink()
    (first / RECORDS).mkdir()
    make(model, first, second)
    verify_store(first, NoProgress())


def test_encoding_what_is_encoded_says_where_to_start(model: Path, tmp_path: Path) -> None:
    from airllm_rs.store.making import refuse_what_is_encoded

    make(model, tmp_path / "store", scheme="8bit")
    with pytest.raises(StoreError, match=f"start from the original checkpoint, {model}"):
        refuse_what_is_encoded(open_checkpoint(tmp_path / "store"), "4bit")


@pytest.mark.parametrize("place", ["itself", "other files", "twice"])
def test_directories_that_are_not_fit_are_refused(model: Path, tmp_path: Path, place: str) -> None:
    if place == "other files":
        (tmp_path / "thesis.tex").touch()
    directories = {"itself": [model], "other files": [tmp_path], "twice": [tmp_path / "a"] * 2}
    before = sorted(model.iterdir())
    with pytest.raises(StoreError):
        make(model, *directories[place])
    assert sorted(model.iterdir()) == before


def test_a_directory_that_cannot_be_written_to_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"Permission denied: .*store"):
        make(model, tmp_path / "store")


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    need = sum(file.nbytes for file in make(model, tmp_path / "other").store.files)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need + (63 << 20)))
    with pytest.raises(NotEnoughSpaceException, match="free some, or choose another place"):
        make(model, tmp_path / "store")
    assert not list((tmp_path / "store").glob("*.safetensors"))


def test_a_disk_that_fills_up_is_named_and_what_is_finished_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 0, 1 << 40))
    with pytest.raises(NotEnoughSpaceException, match="the disk is full; the layers that are fin"):
        make(model, disk / "store", scheme="8bit")
    kept = len(list((disk / "store").glob("*.safetensors")))
    assert kept >= 1
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    made = make(model, disk / "store", scheme="8bit")
    assert made.files_kept == kept
    verify_store(disk / "store", NoProgress())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a tmpfs of a size, where that is allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(nbytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no mount: {done.stderr.decode()}")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


def test_units_are_spread_over_directories_and_read_as_one(
    model: Path, original: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    disks = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    made = make(model, *disks)
    stored = tensors(*disks)
    assert all(torch.equal(stored[name], tensor) for name, tensor in original.items())
    opened = open_checkpoint(disks[0])
    layer = [name for name in opened.names() if name.startswith("model.layers.0.")]
    places = {Path(opened.files[opened.tensor(name).file]).parent for name in layer}
    assert places == set(disks)
    shares = [sum(path.stat().st_size for path in disk.glob("layers.*")) for disk in disks]
    assert max(shares) < 2 * min(shares)
    verify_store(disks[0], NoProgress())
    shutil.move(disks[2], tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is the right disk mounted"):
        open_checkpoint(disks[0])
    assert len(made.store.directories) == 3


def test_a_flipped_bit_is_found_at_the_first_load_and_always_with_always(
    model: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    make(model, store, scheme="4bit")
    verify_at_load(store, "first", NoProgress())
    path = store / "layers.1.safetensors"
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    verify_at_load(store, "off", NoProgress())
    verify_at_load(store, "first", NoProgress())  # no sign of a change
    with pytest.raises(CheckpointError, match=r"layers.1.safetensors: chunk 0, .* is corrupt"):
        verify_at_load(store, "always", NoProgress())
    os.utime(path)
    with pytest.raises(CheckpointError, match=r"chunk 0.* of model\.layers\.1\."):
        verify_at_load(store, "first", NoProgress())


def test_a_store_of_another_format_version_is_refused(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    make(model, store)
    content = manifest(store)
    content["format_version"] = 2
    (store / "airllm_rs.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="format version 2, this version reads 1"):
        open_checkpoint(store)


def test_memory_that_is_too_little_is_refused_with_the_smallest(
    model: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="too little to make a store") as caught:
        make(model, tmp_path / "store", memory_bytes=1 << 20)
    assert caught.value.smallest_bytes > process_memory().total_bytes
    made = make(model, tmp_path / "store", memory_bytes=caught.value.smallest_bytes + (64 << 20))
    assert made.files_made


def test_tensors_that_the_model_has_no_use_for_are_kept(model: Path, tmp_path: Path) -> None:
    extended = tmp_path / "model"
    shutil.copytree(model, extended)
    weights = load_file(extended / "model.safetensors")
    weights["vision.weight"] = torch.arange(6.0)
    save_file(weights, extended / "model.safetensors", metadata={"format": "pt"})
    make(extended, tmp_path / "store", scheme="8bit")
    assert torch.equal(tensors(tmp_path / "store")["vision.weight"], torch.arange(6.0))


def test_a_full_disk_is_no_error_of_another_kind(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "layers.0.safetensors.tmp")

    monkeypatch.setattr(_core, "write_store", fail)
    with pytest.raises(OSError, match="Input/output error"):
        make_store(request(model, tmp_path / "store"), NoProgress())
