"""What this package has put on the disk is listed, and pruned where nothing is lost by it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

import airllm_rs
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.checkpoint.durable import locked, locked_if_free
from airllm_rs.checkpoint.safetensors_files import MANIFEST, RECORDS, STRIPE
from airllm_rs.errors import CheckpointError, StoreError
from airllm_rs.stats.progress import NoProgress
from airllm_rs.store import making, registry
from airllm_rs.store.places import LOCK
from airllm_rs.store.verification import damaged_files, store_in, verify_store
from store_making import SHAPE, make
from tiny import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
HOLDS = """
import sys
from pathlib import Path
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.checkpoint.durable import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def holder() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that hold locks; they are ended."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.communicate()


def held_elsewhere(path: Path) -> subprocess.Popen[str]:
    """Let another process hold a lock until its stdin is closed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(airllm_rs.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_old_copies_of_gguf_files_are_named_and_kept(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = cache / "converted" / "model-bf16-1-0123456789abcdef"
    current = cache / "converted" / "model-gguf-1-0123456789abcdef"
    begun = cache / "converted" / f"{old.name}.partial"
    for directory in (old, current, begun):
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
    kinds = {entry.path: entry.kind for entry in registry.entries()}
    assert kinds == {old: "unused", current: "converted", begun: "unfinished"}
    with caplog.at_level(logging.WARNING, logger="airllm_rs"):
        gone, _ = registry.prune()
    assert [entry.path for entry in gone] == [begun]
    assert old.exists()
    assert caplog.messages == [
        f"{old} is a bf16 copy of a GGUF file, which is read in place: `cache rm` deletes it"
    ]


@pytest.mark.parametrize("kind", ["stores", "converted"])
def test_what_another_process_is_making_stays(
    kind: str, cache: Path, holder: list[subprocess.Popen[str]]
) -> None:
    if kind == "stores":
        begun = cache / kind / "model-8bit-0123456789abcdef"
        lock = begun / LOCK
        (begun / RECORDS).mkdir(parents=True)
    else:
        begun = cache / kind / "model-0123456789abcdef.partial"
        lock = begun.with_name(".model-0123456789abcdef.lock")
        begun.mkdir(parents=True)
    holder.append(held_elsewhere(lock))
    assert registry.prune() == ([], 0)
    with pytest.raises(StoreError, match="another process is making"):
        registry.remove(begun)
    assert begun.exists()
    holder.pop().communicate()
    assert [entry.path for entry in registry.prune()[0]] == [begun]
    assert not begun.exists()


def test_a_lock_that_is_removed_while_somebody_waits_is_made_again(tmp_path: Path) -> None:
    lock = tmp_path / "place" / LOCK
    with locked(lock), locked_if_free(lock) as is_free:
        assert not is_free
        waiting = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(lock)],
            env={**os.environ, "PYTHONPATH": str(Path(airllm_rs.__file__).parents[1])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        while f"{waiting.pid}" not in waiters(lock):
            assert waiting.poll() is None
        lock.unlink()
        lock.parent.rmdir()
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "held\n"
    with locked_if_free(lock) as is_free:
        assert not is_free
    waiting.communicate()
    with locked_if_free(lock) as is_free:
        assert is_free


def waiters(lock: Path) -> list[str]:
    """Return the processes that wait for a lock."""
    inode = f":{lock.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return [line.split()[5] for line in lines if "->" in line and inode in line]


def test_links_in_the_cache_are_nobodys(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / RECORDS).mkdir(parents=True)
    (cache / "stores").mkdir(parents=True)
    (cache / "stores" / "model-8bit").symlink_to(elsewhere)
    assert registry.prune() == ([], 0)
    with pytest.raises(StoreError, match="nothing that airllm-rs has made"):
        registry.remove(cache / "stores" / "model-8bit")
    assert elsewhere.exists()


@pytest.fixture
def striped(cache: Path, model: Path, tmp_path: Path) -> tuple[Path, Path]:
    directories = cache / "stores" / "mine", tmp_path / "second"
    registry.register(make(model, *directories, scheme="8bit").store)
    return directories


def test_all_directories_of_a_store_in_the_cache_go(striped: tuple[Path, Path]) -> None:
    first, second = striped
    (second / "notes.txt").write_text("mine")
    registry.remove(first)
    assert not first.exists()
    assert [path.name for path in second.iterdir()] == ["notes.txt"]


def test_a_manifest_that_names_a_directory_of_others_deletes_nothing(
    striped: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = striped
    others = tmp_path / "others"
    others.mkdir()
    names = [path.name for path in second.glob("*.safetensors")]
    for name in names:
        (others / name).write_bytes(b"precious")
    manifest = json.loads((first / MANIFEST).read_text())
    manifest["directories"][1] = str(others)
    (first / MANIFEST).write_text(json.dumps(manifest))
    for stripe in (None, "{}", "[]", json.dumps({"id": "another"})):
        if stripe is not None:
            (others / STRIPE).write_text(stripe)
        with pytest.raises(StoreError, match="no part of it: nothing was deleted"):
            registry.remove(first)
    assert all((others / name).exists() for name in names)
    assert (first / MANIFEST).exists()


def begun(model: Path, *directories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave an unfinished store, as Ctrl-C does."""

    def interrupted(*arguments: object, **options: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(making, "write_files", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(model, *directories, scheme="4bit")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tiny_checkpoint("llama", tmp_path / "model", dtype=torch.bfloat16, **SHAPE)
    (path / "tokenizer.json").write_text("{}")
    return path


def test_what_is_unfinished_elsewhere_is_listed_and_pruned(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stripes = tmp_path / "a", tmp_path / "b"
    begun(model, *stripes, monkeypatch=monkeypatch)
    found = {entry.path: entry for entry in registry.entries()}
    assert set(found) == set(stripes)
    assert {(entry.kind, entry.source) for entry in found.values()} == {("unfinished", str(model))}
    (stripes[0] / "notes.md").write_text("mine")
    registry.remove(stripes[1])
    gone, _ = registry.prune()
    assert [entry.path for entry in gone] == [stripes[0]]
    assert [path.name for path in stripes[0].iterdir()] == ["notes.md"]
    assert not stripes[1].exists()
    assert registry.entries() == []


def test_a_finished_store_is_one_entry(model: Path, tmp_path: Path) -> None:
    registry.register(make(model, tmp_path / "a", tmp_path / "b").store)
    assert [(entry.path, entry.kind) for entry in registry.entries()] == [(tmp_path / "a", "store")]


def test_a_store_that_was_copied_goes_and_its_original_stays(
    striped: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(striped[0], copied)
    registry.remove(copied)
    assert not copied.exists()
    verify_store(striped[0], NoProgress())
    single, other = tmp_path / "single", tmp_path / "other"
    make(model, single)
    shutil.copytree(single, other)
    registry.remove(other)
    assert not other.exists()
    verify_store(single, NoProgress())


def test_a_store_named_twice_goes_once_and_all_are_looked_at_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(model, tmp_path / "store")
    with pytest.raises(StoreError, match="nothing that airllm-rs has made"):
        registry.remove(tmp_path / "store", model)
    verify_store(tmp_path / "store", NoProgress())
    once = registry.remove(tmp_path / "store", Path("store"))
    assert once > 0
    assert not (tmp_path / "store").exists()


def test_a_part_names_its_store_and_goes_when_that_is_gone(
    striped: tuple[Path, Path],
) -> None:
    first, second = striped
    with pytest.raises(StoreError, match=f"holds a part of the store {first}: remove that"):
        registry.remove(second)
    with pytest.raises(StoreError, match=f"holds a part of the store {first}: name that instead"):
        verify_store(second, NoProgress())
    with pytest.raises(CheckpointError, match=f"holds a part of the store {first}: name that"):
        open_checkpoint(second)
    shutil.rmtree(first)
    registry.remove(second)
    assert not second.exists()


def test_a_store_whose_part_is_gone_can_be_removed(striped: tuple[Path, Path]) -> None:
    first, second = striped
    shutil.rmtree(second)
    with pytest.raises(StoreError, match=f"airllm-rs cache rm {first}"):
        damaged_files(store_in(first), NoProgress())
    registry.remove(first)
    assert not first.exists()


def test_a_broken_manifest_says_what_removes_it_and_that_works(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    make(model, store, scheme="8bit")
    (store / MANIFEST).write_text('{"format_version": 1')
    with pytest.raises(CheckpointError, match=f"`airllm-rs cache rm {store}`, then make it again"):
        make(model, store, scheme="8bit")
    registry.remove(store)
    assert not store.exists()
    make(model, store, scheme="8bit")
    verify_store(store, NoProgress())


def test_parts_of_a_finished_store_are_never_pruned(
    striped: tuple[Path, Path], model: Path, cache: Path, tmp_path: Path
) -> None:
    first, second = striped
    # as if the process was killed after the manifest was written
    (second / RECORDS).mkdir()
    registry.register_begun(second, str(model))
    inside = cache / "stores" / "part"
    registry.register(make(model, tmp_path / "main", inside, scheme="4bit").store)
    assert {entry.path for entry in registry.entries()} == {first, tmp_path / "main"}
    assert registry.prune() == ([], 0)
    with pytest.raises(StoreError, match="holds a part of the store"):
        registry.remove(inside)
    for store in (first, tmp_path / "main"):
        verify_store(store, NoProgress())


def test_a_conversion_says_what_it_was_made_of(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    open_checkpoint(model)
    found = [(entry.kind, entry.source) for entry in registry.entries()]
    assert found == [("converted", str(model / "pytorch_model.bin"))]
