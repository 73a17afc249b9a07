"""A store is made while its checkpoint is downloaded, without room for both."""

from __future__ import annotations

import json
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
from airllm_rs.checkpoint.stored import TensorInfo
from airllm_rs.stats.progress import NoProgress
from airllm_rs.store.downloading import peak_of_sources
from airllm_rs.store.jobs import FileJob, TensorJob
from airllm_rs.store.verification import verify_store
from hub_server import serving
from store_making import SHAPE, make, manifest, tensors
from tiny import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of several files, some of whose layers span two."""
    from transformers import AutoModelForCausalLM

    home = tmp_path_factory.mktemp("hub")
    shape = {**SHAPE, "num_hidden_layers": 6}
    tiny_checkpoint("llama", home / "one", dtype=torch.bfloat16, **shape)
    model = AutoModelForCausalLM.from_pretrained(home / "one", dtype=torch.bfloat16)
    model.save_pretrained(home / "files", max_shard_size="1500KB")
    (home / "files" / "tokenizer.json").write_text("{}")
    assert len(list((home / "files").glob("*.safetensors"))) >= 4
    return home / "files"


def shard(endpoint: str, home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(airllm_rs.__file__).parents[1]),
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-m", "airllm_rs", "shard", "someone/tiny", str(home / "store")]
    return subprocess.run(
        [*command, "--while-downloading", "--json", *flags],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_peak_disk_is_the_result_and_two_files(repository: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    present: list[int] = []
    fetched: list[str] = []

    def look(name: str) -> None:
        if name.endswith(".safetensors"):
            fetched.append(name)
            found = [path for path in store.rglob("*.safetensors") if path.parent != store]
            present.append(len(found) + 1)

    with serving(repository, look) as endpoint:
        done = shard(endpoint, tmp_path)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
    assert sorted(fetched) == sorted(path.name for path in repository.glob("*.safetensors"))
    assert max(present) <= 2
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
    assert not (store / ".airllm_rs-progress").exists()
    stored = tensors(store)
    for path in repository.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert torch.equal(stored[name], tensor)
    assert report["files_made"] == len(list(store.glob("*.safetensors")))
    verify_store(store, NoProgress())


def test_an_interrupted_download_fetches_only_what_is_left(
    repository: Path, tmp_path: Path
) -> None:
    def fetched_until(fails: Callable[[int], bool]) -> tuple[list[str], int]:
        names: list[str] = []

        def look(name: str) -> None:
            if name.endswith(".safetensors"):
                names.append(name)
                if fails(len(names)):
                    raise ConnectionError

        with serving(repository, look) as endpoint:
            done = shard(endpoint, tmp_path, "--compression", "4bit")
        return names, done.returncode

    count = len(list(repository.glob("*.safetensors")))
    _, code = fetched_until(lambda number: number >= count)
    assert code == 1
    names, code = fetched_until(lambda number: False)
    assert code == 0
    assert len(set(names)) < count
    whole = make(repository, tmp_path / "whole", scheme="4bit")
    files = manifest(tmp_path / "store")["files"]
    assert isinstance(files, list)
    assert [file["name"] for file in files] == [file.name for file in whole.store.files]
    ours, theirs = tensors(tmp_path / "store"), tensors(tmp_path / "whole")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [(("--compression", "4bit"), "leave --compression out"), ((), "leave while_downloading out")],
)
def test_what_is_quantised_is_refused_before_anything_large_is_fetched(
    flags: tuple[str, ...], remedy: str, repository: Path, tmp_path: Path
) -> None:
    quantised = tmp_path / "quantised"
    shutil.copytree(repository, quantised)
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (quantised / "config.json").write_text(json.dumps(config))
    fetched: list[str] = []
    with serving(quantised, fetched.append) as endpoint:
        outcome = shard(endpoint, tmp_path, *flags)
    assert outcome.returncode == 1
    assert "someone/tiny is quantised already (gptq)" in outcome.stderr
    assert remedy in outcome.stderr
    assert not [name for name in fetched if name.endswith(".safetensors")]
    assert not (tmp_path / "store").exists()


def test_a_path_is_no_hub_id(repository: Path, tmp_path: Path) -> None:
    from command_line import invoke

    outcome = invoke("shard", repository, tmp_path / "store", "--while-downloading")
    assert outcome.code == 2
    assert "needs a hub id" in outcome.err


def test_the_peak_of_sources_counts_files_that_later_layers_need() -> None:
    def job(*files: int) -> FileJob:
        tensors = tuple(TensorJob("x", TensorInfo("F32", (1,), file, 0, 4), None) for file in files)
        return FileJob("x", "x", 0, tensors)

    sizes = [100, 10, 1]
    assert peak_of_sources([job(0), job(1), job(2)], sizes) == 100
    assert peak_of_sources([job(0), job(0, 1), job(2)], sizes) == 110
    assert peak_of_sources([job(0, 2), job(1)], sizes) == 110
    assert peak_of_sources([job(0, 1, 2)], sizes) == 111
    assert peak_of_sources([job(2)], sizes) == 1
