"""``compression=`` from a path to logits: made once, found again, verified, on two disks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs import AutoModel, _core
from airllm_rs.auto.loading import load_model
from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.errors import BudgetError, CheckpointError
from airllm_rs.stats.progress import NoProgress
from store_making import SHAPE, make, plain_copy
from tiny import generate, oracle, prompt, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airllm_rs.auto.model import Model

SCHEMES = ("8bit", "4bit", "4bit-hq", "nf4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "model"
    shape = {**SHAPE, "tie_word_embeddings": True, "num_hidden_layers": 3}
    return tiny_checkpoint("llama", path, dtype=torch.bfloat16, **shape)


def load(path: Path, **options: object) -> Model:
    return AutoModel.from_pretrained(
        path,
        dtype="float32",
        progress=False,
        **options,  # type: ignore[arg-type]
    )


def least_weights(path: Path, **options: object) -> int:
    with pytest.raises(BudgetError) as refused:
        load(path, weights_memory="1B", **options)
    return refused.value.smallest_bytes


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compression_makes_a_store_once_and_runs_it(
    scheme: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"compression": scheme, "layer_shards_saving_path": str(tmp_path / "shards")}
    ids = prompt(20)
    with torch.no_grad(), load(checkpoint, **options) as model:
        store = model.opened.files.path
        decoded = oracle(plain_copy(store, tmp_path / "plain"))
        want = decoded(ids).logits
        torch.testing.assert_close(model(ids).logits, want, atol=1e-3, rtol=0)
    monkeypatch.setattr(_core, "write_store", None)  # whoever makes another fails
    cap = least_weights(checkpoint, **options)
    with torch.no_grad(), load(checkpoint, weights_memory=cap, **options) as model:
        assert model.opened.files.path == store
        assert model.plan.streamed_bytes_per_sweep > 0
        torch.testing.assert_close(model(ids).logits, want, atol=1e-3, rtol=0)
        length = {"max_new_tokens": 8, "do_sample": False}
        assert torch.equal(generate(model, ids, **length), generate(decoded, ids, **length))


@pytest.mark.parametrize("mode", ["first", "always"])
def test_a_flipped_bit_is_named_when_the_model_is_loaded(
    mode: str, checkpoint: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    make(checkpoint, store, scheme="4bit")
    load(store, verify=mode).close()
    path = store / "layers.1.safetensors"
    _, _, file, offset, _ = _core.Checkpoint.open(store).tensor(
        "model.layers.1.mlp.up_proj.weight.q"
    )
    assert Path(_core.Checkpoint.open(store).files[file]) == path
    stat = path.stat()
    with path.open("r+b") as opened:
        opened.seek(offset + 7)
        (byte,) = opened.read(1)
        opened.seek(offset + 7)
        opened.write(bytes([byte ^ 0x10]))
    if mode == "always":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # no sign of a change
    named = r"layers\.1\.safetensors: chunk 0, of model\.layers\.1\..* is corrupt"
    with pytest.raises(CheckpointError, match=named):
        load(store, verify=mode)
    load(store, verify="off").close()


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Mount two devices, where that is allowed."""
    places = tmp_path / "one", tmp_path / "two"
    mounted = []
    try:
        for place in places:
            place.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(place)]
            done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode:
                pytest.skip(f"no mount: {done.stderr.decode()}")
            mounted.append(place)
        yield places
    finally:
        for place in mounted:
            subprocess.run(["umount", str(place)], capture_output=True, check=False)


@pytest.mark.parametrize("scheme", [None, "4bit"])
def test_a_store_on_two_disks_is_read_from_both_at_once(
    scheme: str | None, checkpoint: Path, tmp_path: Path, disks: tuple[Path, Path]
) -> None:
    stores = tuple(disk / "store" for disk in disks)
    make(checkpoint, *stores, scheme=scheme)
    make(checkpoint, tmp_path / "whole", scheme=scheme)
    decoded = oracle(plain_copy(tmp_path / "whole", tmp_path / "plain"))
    cap = least_weights(stores[0])
    # reads take 10 ms at least: those of one disk are under way when the other's are asked for
    options = LoadOptions(
        dtype="float32", engine="buffered", latency_us=10_000, trace=True, weights_memory=cap
    )
    opened = open_model(stores[0], options, progress=NoProgress())
    ids = prompt(20)
    with torch.no_grad(), load_model(opened, NoProgress()) as model:
        torch.testing.assert_close(model(ids).logits, decoded(ids).logits, atol=1e-3, rtol=0)
        readahead = model.executor.weights.readahead
        devices = readahead.stats()["devices"]
        requests = [event for event in readahead.trace() if event[0] == "request"]
    assert len(devices) == 2
    assert min(device["bytes_read"] for device in devices) > 0
    place = [stores.index(Path(file).parent) for file in opened.files.files]
    spans: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for _, _, file, _, _, begin, end in requests:
        spans[place[file]].append((begin, end))
    both = sum(a < d and c < b for a, b in spans[0] for c, d in spans[1])
    assert both > 0
