"""The tokenizer of a GGUF file is the one that transformers makes, and made when asked for."""

import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from airllm_rs.checkpoint import open_checkpoint, tokenizer_directory
from airllm_rs.errors import CheckpointError, TokenizerError
from airllm_rs.families import read_config
from airllm_rs.tokenizer import load_tokenizer
from checkpoint.gguf_files import TEMPLATE, random_weights, write_gguf

SMOLLM = Path(__file__).parents[3] / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


def test_the_tokenizer_is_the_one_that_transformers_makes(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, "llama", random_weights("llama").file, tokenizer="gpt2")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    # of another model
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "wrong"}')
    files = open_checkpoint(path)
    of_model = [".airllm_rs-sources.json", "config.json", "generation_config.json", "tensors.json"]
    assert sorted(path.name for path in files.path.iterdir()) == of_model
    ours = load_tokenizer(tokenizer_directory(files))
    for text in ("hello  there", "<|turn|>hé</s>", "1234\n\n x"):
        assert ours(text).input_ids == theirs(text).input_ids
        assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids)
    assert ours("he").input_ids[0] == 1, "add_bos_token is kept"
    assert ours.chat_template == TEMPLATE
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, 0)
    found = sorted(path.name for path in files.path.iterdir() if path.suffix != ".lock")
    added = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert found == sorted([*of_model, *added])


def test_a_tokenizer_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, "llama", random_weights("llama").file, tokenizer="bert")
    files = open_checkpoint(path)
    with pytest.raises(TokenizerError, match=r"a\.gguf: its tokenizer cannot be conv") as caught:
        tokenizer_directory(files)
    assert "\n" not in str(caught.value)
    assert "put tokenizer_config.json and the other tokenizer files" in str(caught.value)
    assert list(files.path.glob("tokenizer*")) == []


def test_tokenizer_files_beside_are_used_where_that_of_the_file_cannot_be(tmp_path: Path) -> None:
    source = tmp_path / "convertible.gguf"
    write_gguf(source, "llama", random_weights("llama").file, tokenizer="gpt2")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=source.name)
    folder = tmp_path / "other"
    theirs.save_pretrained(folder)
    path = write_gguf(folder / "a.gguf", "llama", random_weights("llama").file, tokenizer="bert")
    files = open_checkpoint(path)
    for _ in range(2):
        assert tokenizer_directory(files) == folder
    ours = load_tokenizer(tokenizer_directory(files))
    assert ours("hello").input_ids == theirs("hello").input_ids


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    files = open_checkpoint(write_gguf(tmp_path / "a.gguf", "llama", random_weights("llama").file))
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        load_tokenizer(tokenizer_directory(files))


def test_a_file_that_has_changed_since_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path, "llama", random_weights("llama").file, tokenizer="gpt2")
    files = open_checkpoint(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"a\.gguf has changed since it was opened"):
        tokenizer_directory(files)
    assert list(files.path.glob("tokenizer*")) == []


@pytest.mark.slow
def test_the_tokenizer_of_a_real_file(tmp_path: Path) -> None:
    if not SMOLLM.exists():
        pytest.skip(f"make {SMOLLM.relative_to(SMOLLM.parents[2])}")
    files = open_checkpoint(SMOLLM)
    reference = AutoTokenizer.from_pretrained(SMOLLM.parent, gguf_file=SMOLLM.name)
    tokenizer = load_tokenizer(tokenizer_directory(files))
    question = [{"role": "user", "content": "What is  2 + 1234?\n"}]
    for loaded in (tokenizer, reference):
        loaded.padding_side = "left"
    shown = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)
    wanted = reference.apply_chat_template(question, add_generation_prompt=True, return_dict=True)
    assert shown == wanted
    assert tokenizer.eos_token_id in read_config(files.config).eos_token_ids
