"""A hub id is described by its headers, fetched by range: no weights, and no file is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

import airllm_rs
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.errors import CheckpointError
from airllm_rs.stats.progress import NoProgress
from checkpoint.gguf_files import random_weights, write_gguf
from command_line import invoke
from hub_server import serving
from packed_checkpoints import packed_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Traffic:
    """What a repository was asked for."""

    def __init__(self) -> None:
        self.whole: list[str] = []
        self.ranges: list[tuple[str, int, int]] = []

    @property
    def range_bytes(self) -> int:
        return sum(stop - start for _, start, stop in self.ranges)

    def of_weights(self) -> list[str]:
        return [name for name in self.whole if name.endswith((".safetensors", ".gguf"))]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub whose repository is filled by the test."""
    files = tmp_path / "files"
    files.mkdir()
    traffic = Traffic()
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "ours"))
    with serving(files, traffic.whole.append, lambda *r: traffic.ranges.append(r)) as endpoint:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield Hub(files, tmp_path / "cache", traffic)


class Hub:
    """The files of a repository, the client's cache, and what was asked for."""

    def __init__(self, files: Path, cache: Path, traffic: Traffic) -> None:
        self.files, self.cache, self.traffic = files, cache, traffic

    def inspect(self, name: str = "someone/tiny", **options: object) -> dict[str, Any]:
        return airllm_rs.inspect(name, cache_dir=self.cache, **options)  # type: ignore[arg-type]


def without_place(found: dict[str, Any]) -> dict[str, Any]:
    """Return what does not depend on where the files are."""
    return {k: v for k, v in found.items() if k not in ("path", "is_local", "files")}


def copied(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)


def split(path: Path) -> None:
    """Split a checkpoint into a file per tensor, with an index."""
    tensors = load_file(path / "model.safetensors")
    weight_map = {}
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        file = f"model-{number:05d}-of-{len(tensors):05d}.safetensors"
        save_file({name: tensor}, path / file, {"format": "pt"})
        weight_map[name] = file
    (path / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def test_headers_tell_what_the_files_would(hub: Hub, tiny_checkpoint: Callable[..., Path]) -> None:
    copied(tiny_checkpoint("llama", hidden_size=512, num_attention_heads=8), hub.files)
    found = hub.inspect()
    assert without_place(found) == without_place(airllm_rs.inspect(hub.files))
    assert (found["is_local"], hub.traffic.of_weights()) == (False, [])
    (request,) = hub.traffic.ranges
    size = (hub.files / "model.safetensors").stat().st_size
    assert request == ("model.safetensors", 0, 128 << 10)
    assert size > 10 * (128 << 10)
    assert found["files"] == [{"path": "someone/tiny/model.safetensors", "nbytes": size}]
    assert not list(hub.cache.rglob("*.safetensors"))


def test_one_request_for_each_file_of_an_index(
    hub: Hub, tiny_checkpoint: Callable[..., Path]
) -> None:
    copied(tiny_checkpoint("qwen2"), hub.files)
    split(hub.files)
    found = hub.inspect()
    assert without_place(found) == without_place(airllm_rs.inspect(hub.files))
    names = sorted(path.name for path in hub.files.glob("*.safetensors"))
    assert sorted(name for name, _, _ in hub.traffic.ranges) == names
    assert hub.traffic.of_weights() == []


def test_a_long_header_takes_a_second_request(
    hub: Hub, tiny_checkpoint: Callable[..., Path]
) -> None:
    copied(tiny_checkpoint("llama"), hub.files)
    tensors = load_file(hub.files / "model.safetensors")
    save_file(tensors, hub.files / "model.safetensors", {"format": "x" * (200 << 10)})
    assert hub.inspect()["total_bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    content = (hub.files / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    first = 128 << 10
    assert hub.traffic.ranges == [
        ("model.safetensors", 0, first), ("model.safetensors", first, end),
    ]  # fmt: skip


def test_a_plan_needs_headers_alone(hub: Hub, tiny_checkpoint: Callable[..., Path]) -> None:
    copied(tiny_checkpoint("llama", dtype=torch.bfloat16), hub.files)
    flags = ("--ram=8GiB", "--disk-gbps=3", "--json", f"--cache-dir={hub.cache}")
    done = invoke("plan", "someone/tiny", *flags)
    assert done.code == 0, done.err
    here = invoke("plan", hub.files, *flags)
    assert json.loads(done.out) == json.loads(here.out)
    assert hub.traffic.of_weights() == []
    shown = invoke("inspect", "someone/tiny", f"--cache-dir={hub.cache}")
    assert "on the hub: only headers were fetched" in shown.out


@pytest.mark.parametrize("name", ["bnb nf4 nested", "gptq", "fp8 blocks", "nvfp4"])
def test_packed_weights_are_found_by_headers_and_small_tensors(hub: Hub, name: str) -> None:
    packed, _ = packed_checkpoint(hub.files.parent / "made", name)
    copied(packed, hub.files)
    found = hub.inspect()
    assert found["quantization"]["schemes"]
    assert without_place(found) == without_place(airllm_rs.inspect(hub.files))
    assert hub.traffic.of_weights() == []
    # what is equal in every layer is asked for once
    assert len(hub.traffic.ranges) <= 1 + 3 * 8


def test_what_is_in_the_cache_is_opened_there(
    hub: Hub, tiny_checkpoint: Callable[..., Path]
) -> None:
    copied(tiny_checkpoint("llama"), hub.files)
    open_checkpoint("someone/tiny", cache_dir=hub.cache, progress=NoProgress())
    hub.traffic.ranges.clear()
    found = hub.inspect()
    assert (found["is_local"], hub.traffic.ranges) == (True, [])
    assert hub.inspect(local_files_only=True) == found


def test_local_files_only_asks_nothing_and_says_so(
    hub: Hub, tiny_checkpoint: Callable[..., Path]
) -> None:
    copied(tiny_checkpoint("llama"), hub.files)
    for name in ("someone/tiny", "someone/tiny:Q8_0"):
        with pytest.raises(CheckpointError, match="local_files_only forbids to download it"):
            hub.inspect(name, local_files_only=True)
    assert (hub.traffic.whole, hub.traffic.ranges) == ([], [])
    hub.inspect()  # leaves the configuration in the cache
    with pytest.raises(
        CheckpointError, match=r"does not have all of it .*local_files_only forbids"
    ):
        hub.inspect(local_files_only=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "model.safetensors"),
        (b"\xff" * 64, "model.safetensors"),
        (b"\x10" + bytes(7) + b'{"a": 1        }' + bytes(8), "model.safetensors"),
    ],
)
def test_a_header_that_makes_no_sense_is_one_line(
    hub: Hub, tiny_checkpoint: Callable[..., Path], content: bytes, said: str
) -> None:
    copied(tiny_checkpoint("llama"), hub.files)
    (hub.files / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        hub.inspect()
    assert "\n" not in str(caught.value)
    assert "headers." not in str(caught.value)


def test_files_of_torch_are_refused_before_they_are_downloaded(
    hub: Hub, tiny_checkpoint: Callable[..., Path]
) -> None:
    copied(tiny_checkpoint("llama"), hub.files)
    (hub.files / "model.safetensors").rename(hub.files / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not known before they are downloaded"):
        hub.inspect()


def test_a_gguf_file_is_chosen_by_its_quantisation(hub: Hub) -> None:
    weights = random_weights("llama")
    for kind in ("Q8_0", "Q4_0"):
        write_gguf(
            hub.files / f"tiny-{kind.lower()}.gguf", "llama", weights.file,
            kind=gguf.GGMLQuantizationType[kind],
        )  # fmt: skip
    for wrong in ("someone/tiny", "someone/tiny:Q5_K_M"):
        with pytest.raises(CheckpointError, match=r"it has Q4_0, Q8_0"):
            hub.inspect(wrong)
    found = hub.inspect("someone/tiny:q8_0")
    assert without_place(found) == without_place(airllm_rs.inspect(hub.files / "tiny-q8_0.gguf"))
    assert {name for name, _, _ in hub.traffic.ranges} == {"tiny-q8_0.gguf"}
    assert hub.traffic.of_weights() == []
    assert not list(hub.cache.rglob("*.gguf"))
    files = open_checkpoint("someone/tiny:Q8_0", cache_dir=hub.cache, progress=NoProgress())
    assert hub.traffic.of_weights() == ["tiny-q8_0.gguf"]
    assert files.is_local
    assert Path(files.files[0]).read_bytes() == (hub.files / "tiny-q8_0.gguf").read_bytes()
    assert hub.inspect("someone/tiny:Q8_0", local_files_only=True)["is_local"]


def test_all_parts_of_a_split_gguf_file_are_opened(hub: Hub) -> None:
    tensors = random_weights("llama").file
    names = list(tensors)
    folder = hub.files / "Q8_0"
    folder.mkdir()
    for number, part in enumerate((names[:5], names[5:])):
        write_gguf(
            folder / f"tiny-{number + 1:05d}-of-00002.gguf", "llama",
            {name: tensors[name] for name in part},
            metadata={"split.no": number, "split.count": 2},
        )  # fmt: skip
    write_gguf(hub.files / "tiny-F16.gguf", "llama", tensors)
    found = hub.inspect("someone/tiny:Q8_0")
    first = folder / "tiny-00001-of-00002.gguf"
    assert without_place(found) == without_place(airllm_rs.inspect(first))
    assert len(found["files"]) == 2
    files = open_checkpoint("someone/tiny:Q8_0", cache_dir=hub.cache, progress=NoProgress())
    assert [Path(file).name for file in files.files] == [
        "tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf",
    ]  # fmt: skip
    assert "tiny-F16.gguf" not in hub.traffic.whole
