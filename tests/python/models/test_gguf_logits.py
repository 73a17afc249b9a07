"""GGUF models against transformers, with the weights that the gguf package makes of the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import pytest
import torch
from transformers import AutoConfig

from checkpoint.gguf_files import (
    HEADS,
    KV_HEADS,
    LAYERS,
    VOCAB,
    WIDE,
    random_weights,
    write_gguf,
)
from gguf_oracle import dequantized
from loading import load

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

SMALL_BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")
LARGE_BLOCKS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
KINDS = ("F32", "F16", "BF16", *SMALL_BLOCKS, *LARGE_BLOCKS)
BIASES = ("attn_q", "attn_k", "attn_v", "attn_output")

# Both paths: up to 32 rows are multiplied packed, more are turned into numbers.
LENGTHS = (7, 60)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


def written(path: Path, architecture: str, kind: str, *, biases: tuple[str, ...] = ()) -> Path:
    """Write a model; llama's head is its table, qwen2's its own."""
    made = random_weights(architecture, tied=architecture == "llama", biases=biases, sizes=WIDE)
    return write_gguf(
        path, architecture, made.file, kind=gguf.GGMLQuantizationType[kind], sizes=WIDE
    )


def oracle(path: Path, architecture: str, *, biases: bool = False) -> PreTrainedModel:
    """Return transformers' model with the numbers of a file, in float32."""
    config = AutoConfig.for_model(
        architecture,
        vocab_size=VOCAB,
        hidden_size=WIDE.hidden,
        intermediate_size=WIDE.inner,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=128,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        attention_bias=biases,
    )
    return dequantized(path, config)


def assert_same(path: Path, reference: PreTrainedModel, mode: str) -> None:
    with load(path, mode) as model:
        for length in LENGTHS:
            ids = torch.randint(VOCAB, (1, length), generator=torch.Generator().manual_seed(length))
            with torch.inference_mode():
                wanted = reference(ids).logits
                got = model(ids).logits
            assert wanted.std() > 0.1
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_dequantised_weights(
    tmp_path: Path, kind: str, architecture: str
) -> None:
    path = written(tmp_path / "a.gguf", architecture, kind)
    reference = oracle(path, architecture)
    # the last has blocks of rows that are no whole heads
    for mode in ("resident", "streamed", "ring below a layer"):
        assert_same(path, reference, mode)


@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q6_K"])
def test_biases_of_interleaved_rows_are_in_place(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "a.gguf", "llama", kind, biases=BIASES)
    reference = oracle(path, "llama", biases=True)
    for mode in ("resident", "ring below a layer"):
        assert_same(path, reference, mode)


@pytest.mark.parametrize("mode", ["resident", "ring below a layer"])
@pytest.mark.parametrize("kind", ["F32", "Q4_K"])
def test_gradients_pass_interleaved_rows(tmp_path: Path, kind: str, mode: str) -> None:
    path = written(tmp_path / "a.gguf", "llama", kind)
    reference = oracle(path, "llama")
    embeddings = torch.randn(1, 9, WIDE.hidden, generator=torch.Generator().manual_seed(0))

    def gradient(model: PreTrainedModel) -> torch.Tensor:
        inputs = embeddings.clone().requires_grad_()
        model(inputs_embeds=inputs).logits[0, -1, 3].backward()
        assert inputs.grad is not None
        return inputs.grad

    with load(path, mode) as model:
        torch.testing.assert_close(gradient(model), gradient(reference), rtol=2e-3, atol=2e-3)
