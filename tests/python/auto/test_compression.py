"""``compression=`` finds what was made before, makes what was not, and downloads nothing twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from airllm_rs.auto.opening import Opened, open_files, open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.checkpoint.safetensors_files import MANIFEST
from airllm_rs.errors import StoreError
from airllm_rs.stats.progress import NoProgress
from airllm_rs.store import SCHEMES, read_store, registry
from store_making import SHAPE, make
from tiny import tiny_checkpoint

if TYPE_CHECKING:
    from airllm_rs.checkpoint import ModelFiles


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoint("llama", tmp_path / "model", dtype=torch.bfloat16, **SHAPE)


def opened(path: Path | str, **options: object) -> ModelFiles:
    asked = LoadOptions(**options)  # type: ignore[arg-type]
    return open_files(path, asked, NoProgress())[0]


def test_a_store_is_made_once_where_the_user_wants_it(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shards = tmp_path / "shards"
    files = opened(model, compression="4bit", layer_shards_saving_path=str(shards))
    assert files.path.parent == shards
    assert "making a 4bit copy of" in caplog.text
    times = [path.stat().st_mtime_ns for path in sorted(files.path.glob("*.safetensors"))]
    again = opened(model, compression="4bit", layer_shards_saving_path=str(shards))
    assert again.path == files.path
    assert times == [path.stat().st_mtime_ns for path in sorted(files.path.glob("*.safetensors"))]
    in_cache = opened(model, compression="8bit")
    assert in_cache.path.parent == tmp_path / "cache" / "stores"


def test_the_store_is_found_when_the_original_was_deleted(model: Path, tmp_path: Path) -> None:
    files = opened(model, compression="8bit", delete_original=True)
    assert not (model / "model.safetensors").exists()
    assert opened(model, compression="8bit").path == files.path


def test_delete_original_without_compression_deletes_nothing(model: Path) -> None:
    assert opened(model, delete_original=True).path == model
    assert (model / "model.safetensors").exists()


def test_a_changed_checkpoint_gets_a_store_of_its_own(model: Path) -> None:
    first = opened(model, compression="8bit").path
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert opened(model, compression="8bit").path != first


def test_a_store_with_its_own_scheme_is_itself_and_with_another_an_error(model: Path) -> None:
    store = opened(model, compression="8bit").path
    assert opened(store, compression="8bit").path == store
    assert opened(store).path == store
    with pytest.raises(StoreError, match=r"with 8bit weights: leave compression= out, or start"):
        opened(store, compression="4bit")


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_who_only_plans_makes_nothing_and_plans_for_what_would_be_made(
    tmp_path: Path, scheme: str, is_tied: bool
) -> None:
    shape = {**SHAPE, "tie_word_embeddings": is_tied}
    model = tiny_checkpoint("llama", tmp_path / "model", dtype=torch.bfloat16, **shape)

    def planned(may_make: bool) -> Opened:
        options = LoadOptions(compression=scheme, may_make=may_make, weights_memory=1 << 20)
        return open_model(model, options, progress=NoProgress())

    before = planned(may_make=False)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    after = planned(may_make=True)
    assert before.files.schemes == after.files.schemes
    assert before.config == after.config
    assert set(before.files.weight_names()) == set(after.files.weight_names())
    for name in before.files.weight_names():
        one, other = before.files.stored(name), after.files.stored(name)
        assert (one.dtype, one.shape, one.nbytes) == (other.dtype, other.shape, other.nbytes)
    for field in ("total_bytes", "ring_bytes", "resident_bytes", "streamed_bytes_per_sweep"):
        assert getattr(before.plan, field) == getattr(after.plan, field), field


def test_a_damaged_store_of_ours_is_made_whole_by_the_next_load(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(model, compression="8bit").path
    path = store / "layers.0.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert opened(model, compression="8bit", verify="off").path == store
    assert path.read_bytes() != good
    assert opened(model, compression="8bit").path == store
    assert path.read_bytes() == good
    assert "is corrupt" in caplog.text


def test_a_store_that_was_made_elsewhere_is_used(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "disk" / "mine"
    registry.register(make(model, store, scheme="4bit").store)
    assert opened(model, compression="4bit").path == store
    assert opened(model, compression="8bit").path != store
    shards = str(tmp_path / "shards")
    wanted_there = opened(model, compression="4bit", layer_shards_saving_path=shards)
    assert wanted_there.path.parent == tmp_path / "shards"
    shutil.rmtree(shards)
    (model / "model.safetensors").unlink()
    assert opened(model, compression="4bit").path == store


def test_where_the_weights_went_is_told(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "mine"
    registry.register(make(model, store, scheme="4bit", may_delete=True).store)
    with pytest.raises(StoreError, match=f"no weights any more: they are in {store}, 4bit; name"):
        opened(model)
    assert opened(store).path == store


def test_what_config_json_calls_quantised_is_refused_whatever_its_tensors_are(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (model / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StoreError, match=r"is quantised already \(gptq\), and compression='4bit'"):
        opened(model, compression="4bit")


def split(model: Path, place: Path, name: str = "splitted_model") -> Path:
    """Split a checkpoint as AirLLM does: a file per layer, an empty marker beside each."""
    weights = load_file(model / "model.safetensors")
    directory = place / name
    directory.mkdir(parents=True)
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in weights.items():
        parts = key.split(".")
        layer = ".".join(parts[:3] if parts[1] == "layers" else parts[:-1])
        layers.setdefault(layer, {})[key] = tensor
    for layer, tensors in layers.items():
        save_file(tensors, directory / f"{layer}.safetensors")
        (directory / f"{layer}.safetensors.done").touch()
    return directory


@pytest.mark.parametrize("where", ["in the snapshot", "beside it", "named"])
def test_a_split_of_airllm_is_read(model: Path, tmp_path: Path, where: str) -> None:
    expected = load_file(model / "model.safetensors")
    shards = tmp_path / "shards"
    directory = split(model, shards if where == "beside it" else model)
    (model / "model.safetensors").unlink()
    if where == "named":
        files = opened(directory)
    elif where == "beside it":
        files = opened(model, layer_shards_saving_path=str(shards))
    else:
        files = opened(model)
    assert set(files.names()) == set(expected)
    assert {Path(path).parent for path in files.files} == {directory}
    assert files.path == model


def test_a_split_that_airllm_did_not_finish_is_not_read(model: Path) -> None:
    directory = split(model, model)
    next(iter(directory.glob("*.done"))).unlink()
    assert {Path(path).parent for path in opened(model).files} == {model}


def test_a_split_is_found_before_anything_is_downloaded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(model, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").unlink()
    directory = split(model, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    files = opened("someone/tiny", cache_dir=str(tmp_path / "hub"))
    assert {Path(path).parent for path in files.files} == {directory}


def test_a_store_of_a_hub_id_is_found_without_its_weights(model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(model, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    options = {"compression": "8bit", "cache_dir": str(tmp_path / "hub"), "local_files_only": True}
    made = opened("someone/tiny", **options)
    store = read_store(made.path)
    assert store is not None
    assert (store.source["name"], store.source["commit"]) == ("someone/tiny", "0" * 40)
    (snapshot / "model.safetensors").unlink()
    assert opened("someone/tiny", **options).path == made.path


def test_of_two_states_of_a_checkpoint_the_latest_is_found(tmp_path: Path) -> None:
    options = {"compression": "8bit", "layer_shards_saving_path": str(tmp_path / "stores [1]")}
    path = tmp_path / "model [2]"
    made = []
    for changed_ns in (1 << 60, 1 << 61):
        tiny_checkpoint("llama", path, dtype=torch.bfloat16, **SHAPE)
        os.utime(path / "model.safetensors", ns=(changed_ns, changed_ns))
        made.append(opened(path, **options).path)
    assert made[0] != made[1]
    (path / "model.safetensors").unlink()
    for latest, made_ns in ((1, 1 << 60), (0, 1 << 61)):
        os.utime(made[1 - latest] / MANIFEST, ns=(0, 0))
        os.utime(made[latest] / MANIFEST, ns=(made_ns, made_ns))
        assert opened(path, **options).path == made[latest]
