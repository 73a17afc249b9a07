"""Directories that a store is made in: nothing of anybody's is overwritten, nothing is left."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs.errors import BudgetError, NotEnoughSpaceException, StoreError
from airllm_rs.stats.progress import NoProgress
from airllm_rs.store.verification import verify_store
from store_making import SHAPE, make
from tiny import tiny_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    first = tiny_checkpoint("llama", tmp_path / "model", dtype=torch.bfloat16, **SHAPE)
    second = tiny_checkpoint("llama", tmp_path / "model2", dtype=torch.float16, **SHAPE)
    return first, second


@pytest.mark.parametrize("order", ["b", "b d", "d b", "b a", "d a", "a b", "a c"])
def test_directories_of_a_striped_store_are_not_free(
    models: tuple[Path, Path], tmp_path: Path, order: str
) -> None:
    make(models[0], tmp_path / "a", tmp_path / "b")
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=f"`airllm-rs cache rm {tmp_path / 'a'}`, or choose"):
        make(models[1], *(tmp_path / name for name in order.split()))
    assert contents(tmp_path) == before
    verify_store(tmp_path / "a", NoProgress())


@pytest.mark.parametrize("order", ["b a", "b", "b c", "a c", "a"])
def test_the_same_store_in_another_order_or_number_is_refused(
    models: tuple[Path, Path], tmp_path: Path, order: str
) -> None:
    make(models[0], tmp_path / "a", tmp_path / "b")
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="or choose another directory"):
        make(models[0], *(tmp_path / name for name in order.split()))
    assert contents(tmp_path) == before
    made = make(models[0], tmp_path / "a", tmp_path / "b")
    assert made.files_made == 0


def test_a_part_whose_store_is_gone_is_removed_by_its_own_name(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    make(models[0], tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(StoreError, match=f"`airllm-rs cache rm {tmp_path / 'b'}`"):
        make(models[1], tmp_path / "b")


def test_a_store_of_parts_that_was_interrupted_before_its_manifest_goes_on(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    made = make(models[0], tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "airllm_rs.json").unlink()
    (tmp_path / "a" / ".airllm_rs-progress").mkdir()
    again = make(models[0], tmp_path / "a", tmp_path / "b")
    assert again.files_made == made.files_made
    verify_store(tmp_path / "a", NoProgress())


def test_what_is_refused_leaves_no_directory_and_no_lock(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    before = contents(tmp_path)
    with pytest.raises(BudgetError):
        make(models[0], tmp_path / "x" / "y", empty, memory_bytes=1 << 20)
    assert contents(tmp_path) == before
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=65 << 20))
    with pytest.raises(
        NotEnoughSpaceException,
        match=r"needs 0\.00 GB in .* and leaves 0\.07 GB to others, but 0\.07 GB are free",
    ):
        make(models[0], tmp_path / "x" / "y", empty)
    assert contents(tmp_path) == before
    assert empty.is_dir()


@pytest.mark.parametrize("place", ["file", "file/sub"])
def test_a_file_is_no_place_for_a_store(
    models: tuple[Path, Path], tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=f"{tmp_path / 'file'} is a file: a store needs a direct"):
        make(models[0], tmp_path / place)
    with pytest.raises(StoreError, match="is a file, and no shard store"):
        verify_store(tmp_path / "file", NoProgress())


def contents(directory: Path) -> dict[str, bytes | None]:
    """Return all files and directories, locks of finished stores and our cache left out."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
        if "cache" not in path.parts
    }
