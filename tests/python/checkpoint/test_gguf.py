"""GGUF files are opened where they lie: names, blocks, parts, and what is kept of them."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from transformers import AutoConfig
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from airllm_rs.checkpoint import Layout, cache_directory, open_checkpoint
from airllm_rs.checkpoint.gguf import opening
from airllm_rs.errors import CheckpointError, StoreError, UnsupportedModelError
from airllm_rs.families import family_of, read_config, validate
from checkpoint.gguf_files import (
    BF16,
    F16,
    F32,
    HEAD_DIM,
    HIDDEN,
    Q4_0,
    Q5_1,
    Q8_0,
    WIDE,
    Array,
    random_weights,
    write_gguf,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", "llama", random_weights("llama").file, kind=F16)


def content(path: Path, offset: int, nbytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(nbytes)


@pytest.mark.parametrize("kind", [F32, F16, BF16, Q8_0, Q4_0, Q5_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_tensors_are_the_bytes_of_the_file(
    tmp_path: Path, architecture: str, kind: gguf.GGMLQuantizationType
) -> None:
    path = tmp_path / "tiny.gguf"
    made = random_weights(architecture)
    write_gguf(path, architecture, made.file, kind=kind)
    files = open_checkpoint(path)
    assert files.files == (str(path),)
    assert set(files.weight_names()) == made.original.keys()
    theirs = {tensor.data_offset: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, original in made.original.items():
        weight = files.stored(name)
        assert weight.shape == original.shape
        (part,) = weight.parts
        stored = theirs[part.info.offset]
        assert content(path, part.info.offset, part.info.nbytes) == stored.data.tobytes()
        if original.ndim == 1 or kind == F32:
            assert (weight.layout, weight.dtype) == (None, "F32")
        elif kind in (F16, BF16):
            assert (weight.layout, weight.dtype) == (None, kind.name)
        else:
            assert weight.layout == Layout("ggml", kind.name, kind.name)
            assert (part.rows, part.info.dtype) == (1, "U8")
            assert part.info.shape == stored.data.shape
        is_turned = architecture == "llama" and ("q_proj" in name or "k_proj" in name)
        assert weight.interleaved == (HEAD_DIM if is_turned else 0)
    config = read_config(files.config)
    assert config.model_type == architecture
    assert validate(config, family_of(config), files) == []
    assert files.main_dtype == (kind.name if kind in (F32, F16) else "BF16")
    reference = AutoConfig.for_model(**load_gguf_checkpoint(path)["config"])  # type: ignore[no-untyped-call]
    read = AutoConfig.from_pretrained(files.path)
    for key in ("vocab_size", "num_key_value_heads", "intermediate_size", "rope_parameters"):
        assert getattr(read, key) == getattr(reference, key)


@pytest.mark.parametrize(
    ("architecture", "tied", "biases"),
    [
        ("llama", False, ()),
        ("llama", True, ()),
        ("llama", False, ("attn_q", "attn_k", "attn_v", "attn_output")),
        ("llama", False, ("ffn_gate", "ffn_up", "ffn_down")),
        ("qwen2", True, ()),
        ("qwen3", False, ("attn_q", "attn_k", "attn_v", "attn_output")),
    ],
)
def test_the_tensors_say_what_the_configuration_is(
    tmp_path: Path, architecture: str, tied: bool, biases: tuple[str, ...]
) -> None:
    made = random_weights(architecture, tied=tied, biases=biases)
    metadata: dict[str, object] = {f"{architecture}.attention.key_length": HEAD_DIM}
    path = write_gguf(tmp_path / "a.gguf", architecture, made.file, metadata=metadata)
    files = open_checkpoint(path)
    config = read_config(files.config)
    assert validate(config, family_of(config), files) == []
    assert config.tie_word_embeddings == tied
    assert config.head_dim == HEAD_DIM
    assert set(files.weight_names()) == made.original.keys()


@pytest.mark.parametrize("kind", ["TQ1_0", "IQ2_XXS", "IQ3_S"])
def test_a_type_that_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    made = random_weights("llama", sizes=WIDE)
    quantized = gguf.GGMLQuantizationType[kind]
    block, nbytes = gguf.GGML_QUANT_SIZES[quantized]
    name = "blk.1.ffn_down.weight"
    rows, columns = made.file[name].shape
    made.file[name] = np.zeros((rows, columns // block * nbytes), np.uint8)
    plain = {key: tensor.astype(np.float16) for key, tensor in made.file.items() if key != name}
    path = tmp_path / "a.gguf"
    write_gguf(path, "llama", plain | {name: made.file[name]}, kind=quantized, sizes=WIDE)
    with pytest.raises(UnsupportedModelError) as caught:
        open_checkpoint(path)
    assert f"a.gguf: {name} is of type {kind}, which cannot be read; can be: F32" in str(
        caught.value
    )
    assert "Q4_K, Q5_K, Q6_K" in str(caught.value)
    assert not cache_directory().exists()


def test_a_vector_of_blocks_is_refused(tmp_path: Path) -> None:
    made = random_weights("llama")
    packed: dict[str, Array] = {
        "output_norm.weight": gguf.quantize(np.ones(HIDDEN, np.float32), Q8_0)
    }
    path = write_gguf(tmp_path / "a.gguf", "llama", made.file | packed, kind=Q8_0)
    with pytest.raises(UnsupportedModelError, match=r"output_norm\.weight .* only matrices can be"):
        open_checkpoint(path)


def test_no_store_is_made_of_a_gguf_file(source: Path, tmp_path: Path) -> None:
    from airllm_rs.auto.opening import open_files
    from airllm_rs.auto.options import LoadOptions
    from airllm_rs.auto.sharding import shard
    from airllm_rs.stats.progress import NoProgress

    with pytest.raises(StoreError, match=r"tiny\.gguf is read as it is.* original checkpoint"):
        open_files(source, LoadOptions(compression="4bit"), NoProgress())
    with pytest.raises(StoreError, match=r"tiny\.gguf is read as it is"):
        shard(source, [tmp_path / "store"], LoadOptions(), NoProgress())


# Parts.


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """Write three parts: llama.cpp puts the metadata into the first."""
    made = random_weights("llama")
    names = list(made.file)
    parts = []
    for number in range(3):
        some = {name: made.file[name] for name in names[number::3]}
        metadata: dict[str, object] = {"split.no": number, "split.count": 3}
        path = tmp_path / f"big-{number + 1:05d}-of-00003.gguf"
        parts.append(write_gguf(path, "llama", some, kind=Q8_0, metadata=metadata))
    return parts


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_part_opens_the_whole_model(split: list[Path], opened: int) -> None:
    files = open_checkpoint(split[opened])
    assert files.files == tuple(map(str, split))
    config = read_config(files.config)
    assert validate(config, family_of(config), files) == []
    (part,) = files.stored("model.layers.0.mlp.down_proj.weight").parts
    where = list(random_weights("llama").file).index("blk.0.ffn_down.weight") % 3
    assert part.info.file == where
    assert files.path == open_checkpoint(split[0]).path


def test_parts_that_are_missing_are_named(split: list[Path]) -> None:
    split[1].unlink()
    with pytest.raises(CheckpointError, match=r"one of 3 .* lacks big-00002-of-00003\.gguf$"):
        open_checkpoint(split[2])
    split[0].unlink()
    with pytest.raises(CheckpointError, match=r"lacks big-00001-of-00003\.gguf and 1 more"):
        open_checkpoint(split[2])
    wrong = split[2].with_name("big-00004-of-00003.gguf")
    split[2].rename(wrong)
    with pytest.raises(CheckpointError, match="part 4 of 3, which makes no sense"):
        open_checkpoint(wrong)


def test_parts_that_do_not_belong_together_are_named(split: list[Path], tmp_path: Path) -> None:
    shutil.copy(split[0], split[1])
    with pytest.raises(
        CheckpointError, match=r"00002-of-00003\.gguf is part 1 of 3, expected part 2"
    ):
        open_checkpoint(split[0])
    made = random_weights("llama").file
    write_gguf(split[1], "llama", made, metadata={"split.no": 1, "split.count": 3})
    with pytest.raises(CheckpointError, match="which another part has too"):
        open_checkpoint(split[0])
    renamed = split[1].rename(tmp_path / "other.gguf")
    with pytest.raises(CheckpointError, match=r"does not end in -00002-of-00003\.gguf"):
        open_checkpoint(renamed)


# What is kept.


def test_opening_again_imports_nothing_slow(source: Path) -> None:
    open_checkpoint(source)
    script = f"""
import sys
import airllm_rs.checkpoint
print(*sorted({{"torch", "transformers", "gguf"}} & sys.modules.keys()))
print(len(airllm_rs.checkpoint.open_checkpoint({str(source)!r}).names()))
print(*sorted({{"torch", "transformers", "gguf"}} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["", "21", ""]


def test_a_missing_package_is_named_with_its_command(source: Path) -> None:
    script = f"""
import sys
sys.modules["gguf"] = None
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.errors import MissingDependencyError
try:
    open_checkpoint({str(source)!r})
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("need the gguf package: pip install 'airllm_rs[gguf]'\n")


def test_a_changed_source_is_parsed_anew(source: Path) -> None:
    first = open_checkpoint(source).path
    os.utime(source, ns=(1, 1))
    assert open_checkpoint(source).path != first


def test_the_configuration_is_checked_before_anything_is_written(source: Path) -> None:
    def refuse(config: Mapping[str, object]) -> None:
        raise UnsupportedModelError(str(config["model_type"]))

    with pytest.raises(UnsupportedModelError, match="llama"):
        open_checkpoint(source, check=refuse)
    assert not cache_directory().exists()


@pytest.mark.parametrize("dies_at", range(4))
def test_an_interrupted_opening_leaves_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    syncs = 0

    def fsync(descriptor: int) -> None:
        nonlocal syncs
        if syncs == dies_at:
            raise KeyboardInterrupt
        syncs += 1

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(KeyboardInterrupt):
            open_checkpoint(source)
    made = cache_directory() / "converted"
    assert list(made.glob("*.partial")) == []
    assert len(open_checkpoint(source).names()) == 21


def test_two_at_once_write_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    write = opening._write

    def counted(found: opening.GgufModel, directory: Path) -> None:
        written.append(directory)
        write(found, directory)

    monkeypatch.setattr(opening, "_write", counted)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(open_checkpoint(source).path))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(written) == 1


def test_a_source_that_changes_meanwhile_is_named(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "write_tensors", lambda *_, **__: os.utime(source, ns=(1, 1)))
    with pytest.raises(CheckpointError, match=r"tiny\.gguf changed while it was opened"):
        open_checkpoint(source)
    made = cache_directory() / "converted"
    assert [path for path in made.iterdir() if not path.name.endswith(".lock")] == []


def test_a_broken_index_is_named(source: Path) -> None:
    directory = open_checkpoint(source).path
    for wrong in (
        '{"tensors": 3}',
        '{"tensors": [["a", "F99", [1], 0, 0, 0]]}',
        '{"tensors": [[1]]}',
    ):
        (directory / "tensors.json").write_text(wrong)
        with pytest.raises(CheckpointError, match=r"tensors\.json is broken: delete"):
            open_checkpoint(source)
