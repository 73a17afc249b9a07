"""Originals go only when a store is there, and only what belongs to the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from airllm_rs import _core
from airllm_rs.errors import CheckpointError
from packed_checkpoints import split
from packed_formats import airllm4
from store_making import SHAPE, make
from tiny import tiny_checkpoint

OTHER = b"weights that no store was made of"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", tmp_path / "model", dtype=torch.bfloat16, **SHAPE)


def test_weights_go_and_the_rest_stays(model: Path, tmp_path: Path) -> None:
    nbytes = (model / "model.safetensors").stat().st_size
    made = make(model, tmp_path / "store", scheme="8bit", may_delete=True)
    assert made.deleted_bytes == nbytes
    assert {path.name for path in model.iterdir()} == {"config.json", "generation_config.json"}


def test_other_weights_stay_however_the_directory_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (model / "pytorch_model.bin").write_bytes(OTHER)
    nbytes = (model / "model.safetensors").stat().st_size
    made = make(Path("model"), Path("store"), scheme="8bit", may_delete=True)
    assert made.deleted_bytes == nbytes
    assert (model / "pytorch_model.bin").read_bytes() == OTHER
    assert not (model / "model.safetensors").exists()


def test_of_a_split_only_the_split_goes(tmp_path: Path) -> None:
    directory, _ = split(tmp_path, airllm4, "4bit")
    original = directory.parent / "pytorch_model.bin"
    original.write_bytes(OTHER)
    made = make(directory, tmp_path / "store", may_delete=True)
    assert made.deleted_bytes > 0
    assert not list(directory.glob("*.safetensors"))
    assert original.read_bytes() == OTHER


def test_what_was_converted_goes_and_the_conversion_stays(model: Path, tmp_path: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    nbytes = (model / "pytorch_model.bin").stat().st_size
    made = make(model, tmp_path / "store", scheme="8bit", may_delete=True)
    assert made.deleted_bytes == nbytes
    assert not (model / "pytorch_model.bin").exists()


def test_nothing_goes_when_nothing_was_converted(model: Path, tmp_path: Path) -> None:
    make(model, tmp_path / "store", scheme="8bit")
    made = make(model, tmp_path / "store", scheme="8bit", may_delete=True)
    assert made.deleted_bytes == 0
    assert (model / "model.safetensors").exists()


def test_nothing_goes_when_the_store_is_not_what_was_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(*arguments: object, **options: object) -> int:
        raise CheckpointError("chunk 0 is corrupt")

    monkeypatch.setattr(_core, "verify_store", corrupt)
    with pytest.raises(CheckpointError):
        make(model, tmp_path / "store", scheme="8bit", may_delete=True)
    assert (model / "model.safetensors").exists()


def test_a_link_to_somebody_elses_file_goes_and_the_file_stays(model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.safetensors"
    shutil.move(model / "model.safetensors", elsewhere)
    (model / "model.safetensors").symlink_to(elsewhere)
    made = make(model, tmp_path / "store", scheme="8bit", may_delete=True)
    assert (made.deleted_bytes, elsewhere.exists()) == (0, True)
    assert not (model / "model.safetensors").is_symlink()


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_blob_goes_unless_another_revision_uses_it(
    model: Path, tmp_path: Path, is_shared: bool
) -> None:
    home = tmp_path / "models--someone--tiny"
    blob = home / "blobs" / "abc"
    blob.parent.mkdir(parents=True)
    shutil.move(model / "model.safetensors", blob)
    snapshots = [home / "snapshots" / ("1" * 40), home / "snapshots" / ("2" * 40)]
    for snapshot in snapshots:
        shutil.copytree(model, snapshot)
    (snapshots[0] / "model.safetensors").symlink_to("../../blobs/abc")
    if is_shared:
        (snapshots[1] / "model.safetensors").symlink_to("../../blobs/abc")
    made = make(snapshots[0], tmp_path / "store", scheme="8bit", may_delete=True)
    assert made.store.source["name"] == "someone/tiny"
    assert blob.exists() is is_shared
    assert (made.deleted_bytes > 0) is not is_shared
    assert not (snapshots[0] / "model.safetensors").is_symlink()
