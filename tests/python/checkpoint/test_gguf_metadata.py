"""What a GGUF file says becomes a configuration, or is refused in one line."""

import random
import sys
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from airllm_rs.checkpoint import cache_directory, open_checkpoint
from airllm_rs.checkpoint.gguf.opening import read_model
from airllm_rs.checkpoint.gguf.rope import llama3_scaling
from airllm_rs.checkpoint.gguf.source import read_source
from airllm_rs.errors import (
    AirLLMError,
    CheckpointError,
    UnsupportedModelError,
)
from airllm_rs.families import read_config
from checkpoint.gguf_files import (
    F16,
    HEAD_DIM,
    HIDDEN,
    VOCAB,
    Array,
    Weights,
    random_weights,
    write_gguf,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", "llama", random_weights("llama").file, kind=F16)


def describe(path: Path) -> dict[str, object]:
    """Return the config.json that is made of a file."""
    return read_model((path,)).description.config


def rewrite(path: Path, **metadata: object) -> Path:
    """Write a llama file whose metadata differ; ``__`` stands for a dot."""
    laid_over = {f"llama.{key.replace('__', '.')}": value for key, value in metadata.items()}
    return write_gguf(path, "llama", random_weights("llama").file, metadata=laid_over)


def test_metadata_becomes_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    found = describe(
        write_gguf(
            path,
            "llama",
            random_weights("llama").file,
            metadata={
                "tokenizer.ggml.eot_token_id": 3,
                "tokenizer.ggml.eom_token_id": 2,
                "llama.attention.head_count_kv": [2, 2],
            },
        )
    )
    config = read_config(found)
    assert config.rms_norm_eps == 1e-6, "the decimal, not its neighbour in float32"
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 50000.0}
    assert config.max_position_embeddings == 128
    assert config.vocab_size == VOCAB
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2, 3), 0)
    files = open_checkpoint(path)
    assert files.generation_config == {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}
    assert files.config == found


def test_a_window_makes_it_mistral(tmp_path: Path) -> None:
    config = read_config(describe(rewrite(tmp_path / "a.gguf", attention__sliding_window=8)))
    assert config.model_type == "mistral"
    assert config.windows == (8, 8)
    assert read_config(describe(rewrite(tmp_path / "b.gguf"))).windows == (None, None)


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({"type": "none"}, {"rope_type": "default"}),
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 32},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
        (
            {"type": "yarn", "factor": 2.0, "original_context_length": 64, "yarn_beta_fast": 16.0},
            {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 16.0,
            },
        ),
    ],
)
def test_rope_scaling_is_kept(
    tmp_path: Path, metadata: Mapping[str, object], wanted: Mapping[str, object]
) -> None:
    keys = {f"rope__scaling__{key}": value for key, value in metadata.items()}
    found = describe(rewrite(tmp_path / "a.gguf", **keys))
    assert found["rope_parameters"] == {"rope_theta": 50000.0, **wanted}


def test_the_linear_scaling_of_old_files_is_kept(tmp_path: Path) -> None:
    found = describe(rewrite(tmp_path / "a.gguf", rope__scale_linear=2.0))
    scaling = {"rope_type": "linear", "factor": 2.0, "rope_theta": 50000.0}
    assert found["rope_parameters"] == scaling


def frequencies(parameters: Mapping[str, object], head_dim: int) -> torch.Tensor:
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=131072,
        rope_parameters=dict(parameters),
    )
    found: torch.Tensor = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
    return found


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    ("factor", "low", "high", "original"),
    [(8, 1, 4, 8192), (32, 1, 4, 8192), (16, 1, 3, 4096), (8, 2, 8, 16384), (4, 2, 6, 10000)],
)
def test_llama3_scaling_is_recovered_from_its_factors(
    head_dim: int, factor: float, low: float, high: float, original: int
) -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": float(factor),
        "low_freq_factor": float(low),
        "high_freq_factor": float(high),
        "original_max_position_embeddings": original,
    }
    scaled = frequencies(parameters, head_dim)
    plain = 1.0 / (500000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim))
    found = llama3_scaling(Path("a.gguf"), (plain / scaled).numpy(), 500000.0)
    assert found is not None
    if (low, high) == (1, 4):
        assert found | {"rope_theta": 500000.0} == parameters
    read = frequencies(found | {"rope_theta": 500000.0}, head_dim)
    torch.testing.assert_close(read, scaled, rtol=1e-4, atol=0)


def test_rope_factors_of_a_file_are_used(tmp_path: Path) -> None:
    made = random_weights("llama")
    made.file["rope_freqs.weight"] = np.ones(HEAD_DIM // 2, np.float32)
    path = write_gguf(tmp_path / "a.gguf", "llama", made.file)
    assert describe(path)["rope_parameters"] == {"rope_type": "default", "rope_theta": 50000.0}
    for wrong in ([1, 1, 1, 1, 3, 1, 8, 8], [0, 1, 1, 1, 1, 1, 8, 8], [1, 1, 1, 1, 1, 1, 1, 9e9]):
        made.file["rope_freqs.weight"] = np.array(wrong, np.float32)
        write_gguf(path, "llama", made.file)
        with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight"):
            describe(path)
    made.file["rope_freqs.weight"] = np.ones(3, np.float32)
    with pytest.raises(CheckpointError, match=r"has shape \[3\], expected \[8\]"):
        describe(write_gguf(path, "llama", made.file))


# What is refused.


def without(made: Weights, name: str) -> dict[str, Array]:
    return {key: tensor for key, tensor in made.file.items() if key != name}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"logit_scale": 8.0}, r"logit_scale is 8\.0"),
        ({"attention__scale": 0.5}, r"attention\.scale is 0\.5"),
        ({"attention__causal": False}, r"attention\.causal is False"),
        ({"attention__value_length": 8}, r"attention\.value_length is 8 and heads are of 16"),
        ({"rope__dimension_count": 8}, r"rope\.dimension_count is 8 and heads are of 16"),
        ({"rope__scaling__type": "longrope"}, "'longrope' cannot be imported"),
        ({"rope__scaling__type": "yarn", "rope__scaling__factor": 2.0}, "'yarn' cannot be"),
        ({"attention__head_count_kv": [2, 4]}, "differs between layers"),
        ({"attention__key_length": 15, "rope__dimension_count": 15}, "15, which is odd"),
    ],
)
def test_what_would_compute_something_else_is_refused(
    tmp_path: Path, metadata: dict[str, object], message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        open_checkpoint(rewrite(tmp_path / "a.gguf", **metadata))
    assert "\n" not in str(caught.value)
    assert not cache_directory().exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"block_count": None}, r"llama\.block_count is missing"),
        ({"block_count": "two"}, r"llama\.block_count is 'two', expected a whole number"),
        ({"block_count": 2**32 - 1}, "and there are"),
        ({"expert_count": 8}, r"llama\.expert_used_count is missing"),
        ({"expert_count": 8, "expert_used_count": 2}, r"lacks blk\.0\.ffn_gate_inp\.weight"),
        ({"nextn_predict_layers": 2}, r"nextn_predict_layers \(2\) leaves none of 2 layers"),
        ({"block_count": 3}, r"lacks blk\.2\.attn_norm\.weight, .* and 6 more"),
        ({"feed_forward_length": 128}, r"blk\.0\.ffn_gate\.weight has shape \[96, 64\], expected"),
        ({"attention__head_count": 3}, "not a multiple of"),
        ({"attention__layer_norm_rms_epsilon": None}, "rms_epsilon is missing"),
        ({"attention__layer_norm_rms_epsilon": float("nan")}, "is nan, expected a number"),
        ({"context_length": 0}, "is 0, expected a whole number above 0"),
        ({"rope__freq_base": -1.0}, r"freq_base is -1\.0"),
    ],
)
def test_what_contradicts_itself_is_named(
    tmp_path: Path, metadata: dict[str, object], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(rewrite(tmp_path / "a.gguf", **metadata))
    assert "a.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache_directory().exists()


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    made = random_weights("llama")
    path = tmp_path / "a.gguf"
    with pytest.raises(UnsupportedModelError, match="'falcon' cannot be imported; known: llama"):
        open_checkpoint(write_gguf(path, "falcon", made.file))
    extra = {"blk.0.ffn_gate_inp.weight": np.ones((8, HIDDEN), np.float32)}
    with pytest.raises(UnsupportedModelError, match=r"has blk\.0\.ffn_gate_inp\.weight, which is"):
        open_checkpoint(write_gguf(path, "llama", made.file | extra))
    with pytest.raises(CheckpointError, match=r"lacks token_embd\.weight"):
        open_checkpoint(write_gguf(path, "llama", without(made, "token_embd.weight")))
    with pytest.raises(CheckpointError, match=r"lacks blk\.0\.attn_k\.bias"):
        open_checkpoint(
            write_gguf(path, "qwen2", without(random_weights("qwen2"), "blk.0.attn_k.bias"))
        )
    window: dict[str, object] = {"qwen2.attention.sliding_window": 8}
    with pytest.raises(UnsupportedModelError, match="nothing says in which layers"):
        open_checkpoint(write_gguf(path, "qwen2", random_weights("qwen2").file, metadata=window))
    integers = {"output_norm.weight": np.ones(HIDDEN, np.int32)}
    with pytest.raises(UnsupportedModelError, match=r"output_norm\.weight is of type I32, which"):
        open_checkpoint(write_gguf(path, "llama", made.file | integers))
    assert not cache_directory().exists()


def test_a_file_that_ends_anywhere_is_named(source: Path) -> None:
    whole = source.read_bytes()
    header = read_source([source]).tensors["token_embd.weight"].offset
    cuts = [*range(40), *range(40, header, 41), header, (header + len(whole)) // 2]
    # what pads the last tensor is not missed
    for cut in [*cuts, len(whole) - 64]:
        source.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"tiny\.gguf is no whole GGUF file") as caught:
            open_checkpoint(source)
        assert "\n" not in str(caught.value)
    assert not cache_directory().exists()


def test_flipped_bytes_are_an_error_or_harmless(source: Path) -> None:
    whole = source.read_bytes()
    header = read_source([source]).tensors["token_embd.weight"].offset
    chance = random.Random(0)
    messages: list[str] = []
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(header)] = chance.randrange(256)
        source.write_bytes(changed)
        try:
            read_model((source,))
        except AirLLMError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert [message for message in messages if "\n" in message] == []


def test_a_length_out_of_bounds_is_refused(tmp_path: Path) -> None:
    marked: dict[str, object] = {"llama.marked": [7, 7, 7]}
    path = write_gguf(tmp_path / "a.gguf", "llama", random_weights("llama").file, metadata=marked)
    whole = path.read_bytes()
    length = whole.index(b"llama.marked") + len(b"llama.marked") + 8
    for wrong in (2**63, 2**64 - 1, 2**30, 5000):
        path.write_bytes(whole[:length] + wrong.to_bytes(8, "little") + whole[length + 8 :])
        with pytest.raises(CheckpointError, match="no whole GGUF file"):
            open_checkpoint(path)


@pytest.mark.parametrize(("at", "what"), [(8, "tensors"), (16, "keys")])
def test_more_than_a_model_can_have_is_refused_unread(
    at: int, what: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = source.read_bytes()
    monkeypatch.setattr(gguf.GGUFReader, "__init__", lambda *_: pytest.fail("it was read"))
    for count in (65_537, 1 << 23, 2**64 - 1):
        source.write_bytes(whole[:at] + count.to_bytes(8, sys.byteorder) + whole[at + 8 :])
        with pytest.raises(CheckpointError, match=f"it claims {count} {what}, expected 65536"):
            open_checkpoint(source)


def test_the_other_byte_order_is_refused(source: Path) -> None:
    whole = source.read_bytes()
    source.write_bytes(whole[:4] + whole[4:8][::-1] + whole[8:])
    with pytest.raises(UnsupportedModelError, match="other byte order"):
        open_checkpoint(source)


def test_what_is_no_gguf_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for content in (b"", b"GGUF", b"no such thing at all", b"GGUF" + b"\xff" * 400):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.gguf is no whole GGUF file"):
            open_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint(tmp_path / "absent.gguf")
