"""Gemma 3 that sees: the part that reads and writes, from the file as it is published."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForImageTextToText, Gemma3Config

import airllm_rs
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.families import read_config, understand
from airllm_rs.stats.progress import NoProgress
from airllm_rs.store import StoreRequest, make_store
from loading import load
from tiny import prompt

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = prompt(40)
# The keys of the 4B, in their places, with sizes of our own.
CONFIG: dict[str, object] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 300,
    "eoi_token_index": 301,
    "eos_token_id": [1, 106],
    "image_token_index": 302,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 4,
    "model_type": "gemma3",
    "text_config": {
        "head_dim": 32,
        "hidden_size": 256,
        "intermediate_size": 512,
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 8,
        "tie_word_embeddings": True,
        "vocab_size": 320,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {
        "hidden_size": 32,
        "image_size": 28,
        "intermediate_size": 32,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """Write the checkpoint; return it and transformers' logits of `IDS`."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("gemma3")
    left_out = ("model_type", "torch_dtype")  # numbers are float32 here
    config = Gemma3Config(**{key: CONFIG[key] for key in CONFIG if key not in left_out})  # type: ignore[arg-type]
    model = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "language" in name:
                noise = torch.randn(tensor.shape)
                gain = 3.0 if "q_proj" in name else 1.0
                tensor.copy_(0.3 * noise if noise.dim() == 1 else gain * noise / 16)
    model.eval().save_pretrained(path)
    (path / "config.json").write_text(json.dumps(CONFIG))
    with torch.no_grad():
        return path, model(IDS).logits


def test_logits_are_those_of_the_whole(whole: tuple[Path, Tensor]) -> None:
    path, want = whole
    for mode in ("resident", "streamed"):
        with torch.no_grad(), load(path, mode) as model:
            torch.testing.assert_close(model(IDS).logits, want, atol=1e-4, rtol=0)
            assert model.config.eos_token_id == [1, 106]
            assert model.config.hidden_size == 256


@pytest.mark.parametrize("scheme", [None, "8bit", "4bit"])
def test_stores_of_it_run(scheme: str | None, whole: tuple[Path, Tensor], tmp_path: Path) -> None:
    path, want = whole
    files = open_checkpoint(path)
    config, family, _ = understand(read_config(files.config), files)
    make_store(
        StoreRequest(files, config, family, scheme, (tmp_path / "store",), memory_bytes=4 << 30),
        NoProgress(),
    )
    found = airllm_rs.inspect(tmp_path / "store")
    assert found["native"] is True
    assert found["unused_tensors"] == []
    assert found["tied"] is (scheme is None)
    with torch.no_grad(), load(tmp_path / "store", "streamed") as model:
        got = model(IDS).logits
    loss = {None: 1e-9, "8bit": 1e-3, "4bit": 0.05}[scheme]
    assert (got - want).square().sum() < loss * want.square().sum()


def test_the_whole_decides_what_ends_a_text_and_what_is_tied() -> None:
    inner = CONFIG["text_config"]
    assert isinstance(inner, dict)
    text = {**inner, "eos_token_id": 1}
    config = read_config({**CONFIG, "text_config": text, "tie_word_embeddings": False})
    assert config.eos_token_ids == (1, 106)
    assert config.tie_word_embeddings is False
