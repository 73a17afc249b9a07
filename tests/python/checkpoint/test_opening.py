"""Whatever lies on the disk is opened, converted once, or refused in one line."""

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from airllm_rs.checkpoint import cache_directory, open_checkpoint, torch_files
from airllm_rs.checkpoint.model_files import read_json
from airllm_rs.checkpoint.stored import StoredWeight, TensorInfo, plain
from airllm_rs.checkpoint.writing import INDEX
from airllm_rs.errors import (
    AirLLMError,
    CheckpointError,
    ConfigError,
    NotEnoughSpaceException,
    UnsupportedModelError,
)
from airllm_rs.families import family_of, read_config, validate
from airllm_rs.stats.progress import NoProgress

CONFIG: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 16,
}


def tensors() -> dict[str, torch.Tensor]:
    config = read_config(CONFIG)
    generator = torch.Generator().manual_seed(0)
    return {
        spec.name: torch.randn(spec.shape, generator=generator)
        for layer in family_of(config).layers(config)
        for spec in layer.tensors
    }


def write_config(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = write_config(tmp_path / "model")
    save_file(tensors(), path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture
def torch_checkpoint(tmp_path: Path) -> Path:
    path = write_config(tmp_path / "old")
    names = list(tensors())
    parts = {"pytorch_model-00001-of-00002.bin": names[:5]}
    parts["pytorch_model-00002-of-00002.bin"] = names[5:]
    for file, some in parts.items():
        torch.save({name: tensors()[name] for name in some}, path / file)
    weight_map = {name: file for file, some in parts.items() for name in some}
    (path / torch_files.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return path


def test_a_directory_is_opened_in_place(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 3}')
    files = open_checkpoint(checkpoint)
    assert files.config == CONFIG
    assert files.generation_config == {"eos_token_id": 3}
    assert files.files == (str(checkpoint / "model.safetensors"),)
    info = files.tensor("model.norm.weight")
    assert info[:3] == ("F32", (8,), 0)
    raw = (checkpoint / "model.safetensors").read_bytes()[info.offset :][: info.nbytes]
    assert raw == tensors()["model.norm.weight"].numpy().tobytes()
    assert files.main_dtype == "F32"
    assert set(files.names()) == set(tensors())
    with pytest.raises(KeyError):
        files.tensor("absent")


def test_a_file_and_a_directory_with_one_file_are_opened(checkpoint: Path) -> None:
    other = (checkpoint / "model.safetensors").rename(checkpoint / "weights.safetensors")
    assert open_checkpoint(other).files == (str(other),)
    assert open_checkpoint(str(checkpoint)).files == (str(other),)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/place", "/no/such/place: no such file or directory"),
        ("./nowhere", "./nowhere: no such file or directory"),
        ("nowhere.gguf", "nowhere.gguf: no such file or directory"),
        ("a/b/c", "a/b/c: no such file or directory"),
    ],
)
def test_what_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(name)
    assert str(caught.value) == message


def test_a_directory_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"no pytorch_model\.bin"):
        open_checkpoint(write_config(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="neither a directory nor"):
        open_checkpoint(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["pipe.gguf", "pipe.safetensors"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="neither a directory nor"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "line 1 column 2"),
        (b"[1]", "expected an object, found list"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_config_is_one_line(checkpoint: Path, text: bytes, message: str) -> None:
    (checkpoint / "config.json").write_bytes(text)
    with pytest.raises(ConfigError, match=message) as caught:
        open_checkpoint(checkpoint)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_named(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        open_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_checked_before_it_is_converted(torch_checkpoint: Path) -> None:
    def refuse(config: Mapping[str, object]) -> None:
        raise UnsupportedModelError(str(config["model_type"]))

    with pytest.raises(UnsupportedModelError, match="llama"):
        open_checkpoint(torch_checkpoint, check=refuse)
    assert not cache_directory().exists()


def test_torch_files_are_converted_once(
    torch_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in torch_checkpoint.iterdir())
    monkeypatch.setattr(torch_files, "_FILE_BYTES", 600)
    files = open_checkpoint(torch_checkpoint)
    assert files.path == torch_checkpoint
    assert sorted(path.name for path in torch_checkpoint.iterdir()) == before
    assert len(files.files) > 2, "tensors are written a few at a time"
    converted: dict[str, torch.Tensor] = {}
    for file in files.files:
        converted.update(load_file(file))
    assert converted.keys() == tensors().keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in tensors().items())

    def never(path: Path) -> dict[str, torch.Tensor]:
        raise AssertionError(path)

    monkeypatch.setattr(torch_files, "_load", never)
    assert open_checkpoint(torch_checkpoint).files == files.files


def test_a_changed_source_is_converted_anew(torch_checkpoint: Path) -> None:
    first = open_checkpoint(torch_checkpoint).files
    path = torch_checkpoint / "pytorch_model-00001-of-00002.bin"
    os.utime(path, ns=(1, 1))
    assert set(open_checkpoint(torch_checkpoint).files).isdisjoint(first)


def test_tied_tensors_of_one_torch_file_are_converted(tmp_path: Path) -> None:
    path = write_config(tmp_path / "tied")
    table = torch.randn(16, 8)
    state = {"a": table, "b": table, "c": table.t(), "d": table[3:5]}
    torch.save({"state_dict": state}, path / "pytorch_model.bin")
    target = tmp_path / "elsewhere"
    files = open_checkpoint(path, conversion_dir=target)
    assert Path(files.files[0]).is_relative_to(target)
    assert not cache_directory().exists()
    assert all(torch.equal(load_file(files.files[0])[name], state[name]) for name in state)


def test_files_of_old_torch_are_converted(tmp_path: Path) -> None:
    path = write_config(tmp_path / "legacy")
    torch.save(tensors(), path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert set(open_checkpoint(path).names()) == set(tensors())


@pytest.mark.parametrize("dies_after", [0, 1, 2, 3, 4, 5])
def test_an_interrupted_conversion_goes_on(
    torch_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    syncs = 0

    def fsync(descriptor: int) -> None:
        nonlocal syncs
        if syncs == dies_after:
            raise KeyboardInterrupt
        syncs += 1

    real_load = torch_files._load
    loaded: list[str] = []

    def load(path: Path) -> dict[str, torch.Tensor]:
        loaded.append(path.name)
        return real_load(path)

    monkeypatch.setattr(torch_files, "_load", load)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(KeyboardInterrupt):
            open_checkpoint(torch_checkpoint)
    made = list((cache_directory() / "converted").glob("*/" + INDEX))
    assert [path for path in made if not path.parent.name.endswith(".partial")] == []
    loaded.clear()
    files = open_checkpoint(torch_checkpoint)
    assert set(files.names()) == set(tensors())
    assert len(loaded) == (2 if dies_after < 3 else 1), "what was recorded is not read again"


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, int]]:
            return os.mkdir, (str(trace), 0o755)

    path = write_config(tmp_path / "evil")
    torch.save({"a": Evil()}, path / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="never executed") as caught:
        open_checkpoint(path)
    assert not trace.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 no zip"])
def test_a_broken_torch_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = write_config(tmp_path / "broken")
    (path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_torch_file_without_tensors_is_named(tmp_path: Path) -> None:
    path = write_config(tmp_path / "odd")
    torch.save([1, 2], path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds a list"):
        open_checkpoint(path)
    torch.save({"a": 1}, path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="'a' is no tensor"):
        open_checkpoint(path)


def test_an_index_that_names_an_absent_file_is_refused(torch_checkpoint: Path) -> None:
    (torch_checkpoint / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin, which is not there"):
        open_checkpoint(torch_checkpoint)


def test_a_full_disk_is_named_before_anything_is_written(
    torch_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(NotEnoughSpaceException, match=r"needs 0.00 GB in .* 0.00 GB are free"):
        open_checkpoint(torch_checkpoint)
    assert list(cache_directory().rglob("*.safetensors")) == []


def test_the_cache_directory_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", "~/kept")
    assert cache_directory() == Path.home() / "kept"
    monkeypatch.delenv("AIRLLM_RS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/c")
    assert cache_directory() == Path("/var/tmp/c/airllm_rs")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == Path.home() / ".cache" / "airllm_rs"


class Listed:
    """Tensors by name, without files."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> None:
        self.shapes = dict(shapes)
        self.dtype = dtype

    def weight_names(self) -> list[str]:
        return list(self.shapes)

    def stored(self, name: str) -> StoredWeight:
        return plain(name, TensorInfo(self.dtype, self.shapes[name], 0, 0, 0))


def test_a_checkpoint_is_held_against_its_family() -> None:
    config = read_config(CONFIG)
    family = family_of(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors().items()}
    assert validate(config, family, Listed(shapes)) == []
    inv_freq = {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,), "odd": (1,)}
    assert validate(config, family, Listed(shapes | inv_freq)) == ["odd"]
    with pytest.raises(CheckpointError) as caught:
        validate(config, family, Listed(shapes | {"model.norm.weight": (9,)}))
    assert str(caught.value) == (
        "model.norm.weight has shape [9], expected [8] from config.json (8 from hidden_size (8))"
    )
    with pytest.raises(UnsupportedModelError, match="stored as U8"):
        validate(config, family, Listed(shapes, "U8"))
    del shapes["lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"lacks lm_head\.weight \(it has odd instead\)"):
        validate(config, family, Listed(shapes | {"odd": (1,)}))
    with pytest.raises(CheckpointError, match="and 9 more"):
        validate(config, family, Listed({}))
    tied = read_config({**CONFIG, "tie_word_embeddings": True})
    assert validate(tied, family, Listed(shapes | {"lm_head.weight": (16, 8)})) == []


def test_json_that_is_absent_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(AirLLMError, match="no such file"):
        read_json(tmp_path / "x.json")


# The hub, without a network: its cache as a download leaves it.


@pytest.fixture
def hub_cache(tmp_path: Path, checkpoint: Path) -> Path:
    cache = tmp_path / "hub"
    repository = cache / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(checkpoint, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return cache


def test_a_hub_id_is_found_in_the_hubs_cache(hub_cache: Path) -> None:
    files = open_checkpoint("someone/tiny", cache_dir=hub_cache, local_files_only=True)
    assert files.path.name == "0" * 40
    assert files.config == CONFIG
    assert set(files.names()) == set(tensors())


def test_what_the_hubs_cache_lacks_is_one_line(hub_cache: Path) -> None:
    for name in ("someone/other", "plain"):
        with pytest.raises(CheckpointError, match="offline, or the hub is down") as caught:
            open_checkpoint(name, cache_dir=hub_cache, local_files_only=True)
        assert str(caught.value).startswith(f"{name}: no such directory")
        assert "\n" not in str(caught.value)


def test_offline_is_honoured(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    files = open_checkpoint("someone/tiny", cache_dir=hub_cache, progress=NoProgress())
    assert set(files.names()) == set(tensors())
    with pytest.raises(CheckpointError, match="someone/other: no such directory"):
        open_checkpoint("someone/other", cache_dir=hub_cache)


class Hub:
    """Stands in for the hub's client: a repository of files, what was asked for, and a network."""

    def __init__(self, files: Path, cache: Path) -> None:
        self.files = files
        self.cache = cache
        self.asked: list[list[str]] = []

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str | None,
        cache_dir: Path,
        token: str | None,
        allow_patterns: list[str],
        ignore_patterns: list[str],
        local_files_only: bool = False,
        dry_run: bool = False,
    ) -> str | list[SimpleNamespace]:
        target = self.cache / f"models--{repo_id.replace('/', '--')}" / "snapshots" / "1"
        target.mkdir(parents=True, exist_ok=True)
        wanted = [
            path
            for path in self.files.iterdir()
            if any(path.match(pattern) for pattern in allow_patterns)
            and not any(path.match(pattern) for pattern in ignore_patterns if "/" not in pattern)
        ]
        if dry_run:
            return [
                SimpleNamespace(
                    file_size=path.stat().st_size, will_download=not (target / path.name).exists()
                )
                for path in wanted
            ]
        self.asked.append(sorted(path.name for path in wanted))
        for path in wanted:
            shutil.copy(path, target)
        return str(target)


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    for name in ("tokenizer.json", "consolidated.safetensors", "training_args.bin", "README.md"):
        (checkpoint / name).write_text("{}")
    found = Hub(checkpoint, tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", found.snapshot_download)
    return found


def test_only_what_is_needed_is_downloaded(hub: Hub) -> None:
    files = open_checkpoint("someone/tiny", cache_dir=hub.cache)
    assert set(files.names()) == set(tensors())
    small = ["config.json", "tokenizer.json"]
    assert hub.asked == [small, [small[0], "model.safetensors", small[1]]]


def test_torch_files_are_downloaded_where_there_is_nothing_else(hub: Hub) -> None:
    (hub.files / "model.safetensors").unlink()
    torch.save(tensors(), hub.files / "pytorch_model.bin")
    assert set(open_checkpoint("someone/tiny", cache_dir=hub.cache).names()) == set(tensors())
    assert "pytorch_model.bin" in hub.asked[-1]


def test_a_repository_without_weights_is_named(hub: Hub) -> None:
    (hub.files / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither safetensors nor"):
        open_checkpoint("someone/tiny", cache_dir=hub.cache)


def test_an_unknown_model_is_not_downloaded(hub: Hub) -> None:
    def refuse(config: Mapping[str, object]) -> None:
        raise UnsupportedModelError(str(config["model_type"]))

    with pytest.raises(UnsupportedModelError):
        open_checkpoint("someone/tiny", cache_dir=hub.cache, check=refuse)
    assert len(hub.asked) == 1


def test_a_disk_too_small_for_a_download_is_named(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(NotEnoughSpaceException, match="downloading someone/tiny needs"):
        open_checkpoint("someone/tiny", cache_dir=hub.cache)
    assert len(hub.asked) == 1
