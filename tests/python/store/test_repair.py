"""A store that is damaged is made whole: what is right stays, what is not is made anew."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs.errors import CheckpointError, StoreError
from airllm_rs.stats.progress import NoProgress
from airllm_rs.store import read_store
from airllm_rs.store.verification import damaged_files, verify_store
from store_making import SHAPE, make
from tiny import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", tmp_path / "model", dtype=torch.bfloat16, **SHAPE)


def damage(path: Path, *, silently: bool = False) -> bytes:
    """Flip a bit of a file, and return what it was before."""
    before, stat = path.read_bytes(), path.stat()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    if silently:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return before


@pytest.mark.parametrize("scheme", [None, "4bit"])
@pytest.mark.parametrize("stripes", [1, 2])
def test_what_is_damaged_is_made_again_and_nothing_else(
    model: Path, tmp_path: Path, scheme: str | None, stripes: int
) -> None:
    directories = [tmp_path / str(number) for number in range(stripes)]
    made = make(model, *directories, scheme=scheme, may_repair=True)
    flipped, gone, cut = (
        directories[-1] / "layers.0.safetensors",
        directories[-1] / "layers.1.safetensors",
        directories[0] / "embed_tokens.safetensors",
    )
    before = {path: path.read_bytes() for path in (flipped, gone, cut)}
    whole = {path: path.stat().st_mtime_ns for path in made.store.paths if path not in before}
    damage(flipped)
    gone.unlink()
    cut.write_bytes(before[cut][:-1])
    again = make(model, *directories, scheme=scheme, may_repair=True)
    assert (again.files_made, again.files_kept) == (3, made.files_made - 3)
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
    verify_store(directories[0], NoProgress())
    assert make(model, *directories, scheme=scheme, may_repair=True).files_made == 0


def test_what_a_failed_verification_found_is_made_again(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    make(model, store)
    verify_store(store, NoProgress())
    damage(store / "norm.safetensors", silently=True)
    assert make(model, store, may_repair=True).files_made == 0  # no sign of it
    with pytest.raises(CheckpointError, match="the same `airllm-rs shard` makes it again"):
        verify_store(store, NoProgress())
    assert make(model, store, may_repair=True).files_made == 1
    verify_store(store, NoProgress())


def test_all_damaged_files_are_found(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path / "store")
    names = ["layers.0.safetensors", "norm.safetensors"]
    for name in names:
        damage(tmp_path / "store" / name)
    store = read_store(tmp_path / "store")
    assert store is not None
    found = damaged_files(store, NoProgress())
    assert [file.name for file, _ in found] == names
    assert all("is corrupt" in why for _, why in found)


def test_a_part_that_is_not_there_is_not_made_again(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path / "a", tmp_path / "b")
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is the right disk mounted"):
        make(model, tmp_path / "a", tmp_path / "b", may_repair=True)
    assert not (tmp_path / "b").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "b")
    verify_store(tmp_path / "a", NoProgress())
