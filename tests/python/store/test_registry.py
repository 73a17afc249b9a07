"""What this package has put on the disk is listed, and pruned where nothing is lost by it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import airllm_rs
from airllm_rs.checkpoint.durable import locked, locked_if_free
from airllm_rs.checkpoint.opening import MANIFEST, RECORDS
from airllm_rs.errors import StoreError
from airllm_rs.store import registry
from airllm_rs.store.making import LOCK
from airllm_rs.store.manifest import STRIPE
from store_making import SHAPE, make
from tiny import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
HOLDS = """
import sys
from pathlib import Path
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
def striped(cache: Path, tmp_path: Path) -> tuple[Path, Path]:
    model = tiny_checkpoint("llama", tmp_path / "model", dtype=torch.bfloat16, **SHAPE)
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
