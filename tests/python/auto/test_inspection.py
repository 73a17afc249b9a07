"""`airllm_rs.inspect`: sizes add up, and what does not run here is described all the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import airllm_rs
from airllm_rs.errors import CheckpointError, ConfigError
from tiny import SHAPE, VOCAB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def inspected(path: Path, **options: object) -> dict[str, Any]:
    return airllm_rs.inspect(path, **options)  # type: ignore[arg-type]


def rewritten(source: Path, target: Path, *, prefix: str = "", **config: object) -> Path:
    """Copy a checkpoint with names that begin with ``prefix`` and other keys in config.json."""
    raw = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**raw, **config}))
    tensors = load_file(source / "model.safetensors")
    renamed = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    save_file(renamed, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_sizes_add_up(tiny_checkpoint: Callable[..., Path], model_type: str) -> None:
    path = tiny_checkpoint(model_type)
    found = inspected(path)
    tensors = load_file(path / "model.safetensors")
    assert (found["model_type"], found["native"], found["refusal"]) == (model_type, True, None)
    assert found["num_layers"] == SHAPE["num_hidden_layers"]
    assert found["total_bytes"] == sum(tensor.nbytes for tensor in tensors.values())
    assert found["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert found["total_bytes"] == sum(layer["nbytes"] for layer in found["layers"])
    names = [layer["name"] for layer in found["layers"]]
    assert names == ["embed_tokens", "layers.0", "layers.1", "norm", "lm_head"]
    listed = {tensor["name"] for layer in found["layers"] for tensor in layer["tensors"]}
    assert listed == set(tensors)
    assert (found["dtype"], found["unused_tensors"], found["misaligned_tensors"]) == ("F32", [], [])
    assert json.loads(json.dumps(found)) == found


def test_a_tied_head_is_counted_once(tiny_checkpoint: Callable[..., Path]) -> None:
    found = inspected(tiny_checkpoint("qwen2", tie_word_embeddings=True))
    head = found["layers"][-1]
    assert (found["tied"], head["kind"], head["nbytes"]) == (True, "head", VOCAB * 64 * 4)
    total = sum(layer["nbytes"] for layer in found["layers"])
    assert found["total_bytes"] == total - head["nbytes"]


def test_windows_are_told_by_layer(tiny_checkpoint: Callable[..., Path]) -> None:
    found = inspected(tiny_checkpoint("mistral"))
    decoder = [layer for layer in found["layers"] if layer["kind"] == "decoder"]
    assert [layer["window"] for layer in decoder] == [8, 8]
    # 2 layers, keys and values of 2 heads of 16, float32
    assert found["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4


def test_overrides_are_laid_over_the_file(tiny_checkpoint: Callable[..., Path]) -> None:
    overridden = {"max_position_embeddings": 99}
    found = inspected(tiny_checkpoint("llama"), config_overrides=overridden)
    assert found["max_position_embeddings"] == 99
    with pytest.raises(ConfigError, match="'depth' is not read"):
        inspected(tiny_checkpoint("llama"), config_overrides={"depth": 1})


def test_extra_and_misaligned_tensors_are_named(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = rewritten(tiny_checkpoint("llama"), tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["extra"] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    for name, entry in header.items():
        if name not in ("extra", "__metadata__"):
            entry["data_offsets"] = [offset + 1 for offset in entry["data_offsets"]]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" + content[8 + size :])
    found = inspected(path)
    assert found["unused_tensors"] == ["extra"]
    assert len(found["misaligned_tensors"]) == len(header) - 2


def test_an_unknown_architecture_is_described(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    path = rewritten(tiny_checkpoint("llama"), tmp_path, prefix="net.", model_type="other")
    found = inspected(path)
    assert (found["native"], found["model_type"]) == (False, "other")
    assert "'other' (LlamaForCausalLM) is known neither here nor" in found["refusal"]
    assert (found["num_layers"], found["tied"], found["num_units"]) == (2, None, None)
    kinds = {layer["name"]: layer["kind"] for layer in found["layers"]}
    assert kinds["layers.1"] == "decoder"
    assert kinds["net.lm_head"] == "other"
    assert found["total_bytes"] == sum(layer["nbytes"] for layer in found["layers"])


def test_quantised_weights_are_described(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    config: dict[str, Any] = {"quantization_config": {"quant_method": "hqq"}}
    found = inspected(rewritten(tiny_checkpoint("llama"), tmp_path, **config))
    assert found["native"] is False
    assert "hqq" in found["refusal"]
    assert found["quantization"] == {"method": "hqq", "schemes": {}}


def test_what_is_broken_is_an_error(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = rewritten(tiny_checkpoint("llama"), tmp_path, hidden_size=128, head_dim=16)
    with pytest.raises(CheckpointError, match="has shape"):
        inspected(path)


def test_bf16_is_named_by_its_code(tiny_checkpoint: Callable[..., Path]) -> None:
    found = inspected(tiny_checkpoint("llama", dtype=torch.bfloat16))
    assert found["dtype"] == "BF16"
    assert found["compute_dtype"] in ("BF16", "F32")
