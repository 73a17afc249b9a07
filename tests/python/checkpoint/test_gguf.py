"""GGUF files become the checkpoint that they were made from, once, whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from airllm_rs.checkpoint.gguf.weights import to_bf16
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from airllm_rs.checkpoint import ModelFiles, cache_directory, open_checkpoint
from airllm_rs.checkpoint.gguf import conversion, import_gguf, weights
from airllm_rs.checkpoint.writing import PlannedFile, PlannedTensor, plan_files, write_file
from airllm_rs.errors import (
    CheckpointError,
    ConfirmationNeeded,
    NotEnoughSpaceException,
    TokenizerError,
    UnsupportedModelError,
)
from airllm_rs.families import family_of, read_config, validate
from airllm_rs.stats.progress import NoProgress
from airllm_rs.tokenizer import load_tokenizer
from checkpoint.gguf_files import (
    BF16,
    F16,
    F32,
    HEAD_DIM,
    HIDDEN,
    Q4_0,
    Q5_1,
    Q8_0,
    TEMPLATE,
    random_weights,
    write_gguf,
)

SMOLLM = Path(__file__).parents[3] / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", "llama", random_weights("llama").file, kind=F16)


@pytest.fixture
def several_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "plan_files", partial(plan_files, file_bytes=32 << 10))


def tensors_of(files: ModelFiles) -> dict[str, torch.Tensor]:
    return {name: tensor for file in files.files for name, tensor in load_file(file).items()}


def transformers_config(path: Path) -> PreTrainedConfig:
    """Return the configuration that transformers makes of a file."""
    loaded = load_gguf_checkpoint(path)  # type: ignore[no-untyped-call]
    return AutoConfig.for_model(**loaded["config"])


def transformers_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in float32, named, dequantised and unpermuted by transformers."""
    config = transformers_config(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    loaded = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)  # type: ignore[no-untyped-call]
    found: dict[str, torch.Tensor] = loaded["tensors"]
    return found


def assert_nothing_left() -> None:
    left = [path for path in cache_directory().rglob("*") if not path.name.endswith(".lock")]
    assert [path for path in left if path.name != "converted"] == []


@pytest.mark.parametrize("kind", [F32, F16, BF16, Q8_0, Q4_0, Q5_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_tensors_are_those_that_transformers_loads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    kind: gguf.GGMLQuantizationType,
) -> None:
    # blocks of few rows, and of one head
    monkeypatch.setattr(weights, "_BLOCK_BYTES", 4 * HIDDEN * 5)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, architecture, random_weights(architecture).file, kind=kind)
    files = open_checkpoint(path)
    ours, theirs = tensors_of(files), transformers_tensors(path)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        wanted = tensor if tensor.dim() == 1 else tensor.to(torch.bfloat16)
        assert ours[name].dtype == wanted.dtype
        assert torch.equal(ours[name], wanted), name
    config = read_config(files.config)
    assert config.model_type == architecture
    assert validate(config, family_of(config), files) == []
    reference = transformers_config(path)
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
def test_the_original_comes_back(
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
    read = tensors_of(files)
    assert read.keys() == made.original.keys()
    for name, tensor in made.original.items():
        assert torch.equal(read[name], torch.from_numpy(tensor).to(read[name].dtype)), name


def test_vectors_keep_what_bf16_would_lose(tmp_path: Path) -> None:
    made = random_weights("llama")
    made.file["output_norm.weight"] = np.full(HIDDEN, 1.5, np.float32)
    files = open_checkpoint(write_gguf(tmp_path / "a.gguf", "llama", made.file))
    assert files.tensor("model.norm.weight").dtype == "BF16"
    assert files.tensor("model.layers.0.input_layernorm.weight").dtype == "F32"
    assert files.main_dtype == "BF16"


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "TQ1_0"])
def test_kinds_of_large_blocks_are_dequantised(tmp_path: Path, kind: str) -> None:
    wide = 256
    made = random_weights("llama")
    kept = {name: tensor for name, tensor in made.file.items() if "ffn" not in name}
    quantized = gguf.GGMLQuantizationType[kind]
    _, block_nbytes = gguf.GGML_QUANT_SIZES[quantized]
    generator = np.random.default_rng(1)
    for n in range(2):
        kept[f"blk.{n}.ffn_norm.weight"] = made.file[f"blk.{n}.ffn_norm.weight"]
        for part in ("gate", "up"):
            kept[f"blk.{n}.ffn_{part}.weight"] = np.ones((wide, HIDDEN), np.float32)
        blocks = generator.integers(0, 256, (HIDDEN, block_nbytes), np.uint8)
        # no scale is infinite or no number
        blocks[:, 1::2] &= 0x3F
        kept[f"blk.{n}.ffn_down.weight"] = blocks
    metadata: dict[str, object] = {"llama.feed_forward_length": wide}
    path = tmp_path / "a.gguf"
    files = open_checkpoint(
        write_gguf(
            path,
            "llama",
            kept,
            kind=quantized,
            metadata=metadata,
        )
    )
    wanted = torch.from_numpy(gguf.dequantize(kept["blk.1.ffn_down.weight"], quantized))
    read = tensors_of(files)["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(read, wanted.to(torch.bfloat16))


def test_rounding_is_that_of_torch() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32)
    special = [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0x7F7F8000, 1]
    ties = [0x3F808000, 0x3F818000, 0x3F808001, 0x00008000, 0x7F800001, 0xFFFFFFFF]
    floats = np.concatenate((bits, np.array(special + ties, np.uint32))).view(np.float32)
    rounded = torch.from_numpy(to_bf16(floats).view(np.int16)).view(torch.bfloat16)
    wanted = torch.from_numpy(floats).to(torch.bfloat16)
    assert torch.equal(rounded.isnan(), wanted.isnan())
    assert torch.equal(rounded.nan_to_num(7.0), wanted.nan_to_num(7.0))


# Once, whole, or not at all.


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


def test_a_changed_source_is_converted_anew(source: Path) -> None:
    first = open_checkpoint(source).path
    os.utime(source, ns=(1, 1))
    assert open_checkpoint(source).path != first


def test_much_is_asked_about_first(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="airllm_rs")
    convert = partial(import_gguf, source, progress=NoProgress(), ask_above=1000)
    with pytest.raises(ConfirmationNeeded, match=r"takes 0\.00 GB in .*--yes") as caught:
        convert()
    assert str(cache_directory()) in str(caught.value)
    assert caught.value.directory == cache_directory() / "converted"
    assert caught.value.needed_bytes > 1000
    assert "tiny.gguf is converted to bf16 once: 0.00 GB in" in caplog.text
    assert not cache_directory().exists()
    directory = convert(yes=True)
    written = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    assert 0 < written - caught.value.needed_bytes < 10_000, "headers"
    assert convert() == directory, "what is there is not asked about"


def test_the_configuration_is_checked_before_anything_is_written(source: Path) -> None:
    def refuse(config: Mapping[str, object]) -> None:
        raise UnsupportedModelError(str(config["model_type"]))

    with pytest.raises(UnsupportedModelError, match="llama"):
        open_checkpoint(source, check=refuse)
    assert not cache_directory().exists()


def test_a_full_disk_is_named_before_anything_is_written(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(NotEnoughSpaceException, match=r"converting .*tiny\.gguf to bf16 needs"):
        open_checkpoint(source)
    assert [
        path for path in cache_directory().rglob("*") if path.is_file() and path.stat().st_size
    ] == []


@pytest.mark.usefixtures("several_files")
@pytest.mark.parametrize("dies_at", range(0, 16, 3))
def test_an_interrupted_conversion_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    whole = open_checkpoint(source, conversion_dir=tmp_path / "whole").path
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
    assert [path for path in made.iterdir() if path.suffix not in (".partial", ".lock")] == []
    kept = {path.name for path in made.glob("*.partial/*.safetensors")}
    written: list[str] = []
    monkeypatch.setattr(conversion, "write_file", recorded(written))
    directory = open_checkpoint(source).path
    assert set(written).isdisjoint(kept)
    assert len(written) + len(kept) > 5
    content = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert content == {path.name: path.read_bytes() for path in whole.iterdir()}
    assert list(made.glob("*.partial")) == []


def recorded(
    written: list[str],
) -> Callable[..., None]:
    """Return ``write_file`` that also notes the names of files."""

    def write(
        directory: Path,
        planned: PlannedFile,
        content: Callable[[PlannedTensor], Iterable[memoryview]],
        advance: Callable[[int], object],
    ) -> None:
        written.append(planned.name)
        write_file(directory, planned, content, advance)

    return write


@pytest.mark.usefixtures("several_files")
def test_two_at_once_convert_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(conversion, "write_file", recorded(written))
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
    assert len(written) == len(set(written))


@pytest.mark.usefixtures("several_files")
@pytest.mark.parametrize("shrinks", [True, False])
def test_a_source_that_changes_meanwhile_is_named(
    source: Path, monkeypatch: pytest.MonkeyPatch, shrinks: bool
) -> None:
    def write(*arguments: object) -> None:
        if shrinks:
            os.truncate(source, source.stat().st_size // 2)
        else:
            os.utime(source, ns=(1, 1))
        write_file(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(conversion, "write_file", write)
    message = "ends within" if shrinks else "changed while it was converted"
    with pytest.raises(CheckpointError, match=rf"tiny\.gguf {message}"):
        open_checkpoint(source)
    assert_nothing_left()


# Tokenizers.


def test_the_tokenizer_is_the_one_that_transformers_makes(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, "llama", random_weights("llama").file, tokenizer="gpt2")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    # of another model
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "wrong"}')
    files = open_checkpoint(path)
    ours = load_tokenizer(files.path)
    for text in ("hello  there", "<|turn|>hé</s>", "1234\n\n x"):
        assert ours(text).input_ids == theirs(text).input_ids
        assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids)
    assert ours("he").input_ids[0] == 1, "add_bos_token is kept"
    assert ours.chat_template == TEMPLATE
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, 0)
    assert sorted(path.name for path in files.path.iterdir() if path.suffix != ".safetensors") == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_tokenizer_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, "llama", random_weights("llama").file, tokenizer="bert")
    with pytest.raises(TokenizerError, match=r"a\.gguf: its tokenizer cannot be conv") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert_nothing_left()


# The model of the demo.


@pytest.mark.slow
def test_a_real_file_is_imported(tmp_path: Path) -> None:
    if not SMOLLM.exists():
        pytest.skip(f"make {SMOLLM.relative_to(SMOLLM.parents[2])}")
    files = open_checkpoint(SMOLLM)
    config = read_config(files.config)
    assert validate(config, family_of(config), files) == []
    # transformers' loader on the first layer alone, which is quick
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(SMOLLM).tensors}
    some = [f"blk.0.{part}.weight" for part in ("attn_q", "attn_k", "ffn_down", "attn_norm")]
    few = tmp_path / "few.gguf"
    reduced = gguf.GGUFWriter(few, "llama")
    reduced.add_block_count(1)
    reduced.add_embedding_length(576)
    reduced.add_feed_forward_length(1536)
    reduced.add_head_count(9)
    reduced.add_head_count_kv(3)
    reduced.add_rope_dimension_count(64)
    reduced.add_vocab_size(8)
    for name in some:
        reduced.add_tensor(name, np.array(stored[name].data), raw_dtype=stored[name].tensor_type)
    reduced.write_header_to_file()
    reduced.write_kv_data_to_file()
    reduced.write_tensors_to_file()
    reduced.close()
    theirs = transformers_tensors(few)
    assert len(theirs) == len(some)
    ours = tensors_of(files)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name].float(), tensor.to(torch.bfloat16).float()), name
    reference = AutoTokenizer.from_pretrained(SMOLLM.parent, gguf_file=SMOLLM.name)
    tokenizer = load_tokenizer(files.path)
    question = [{"role": "user", "content": "What is  2 + 1234?\n"}]
    for loaded in (tokenizer, reference):
        loaded.padding_side = "left"
    shown = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)
    wanted = reference.apply_chat_template(question, add_generation_prompt=True, return_dict=True)
    assert shown == wanted
    assert tokenizer.eos_token_id in config.eos_token_ids
    assert json.loads((files.path / "config.json").read_text())["rms_norm_eps"] == 1e-5
