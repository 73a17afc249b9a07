"""`airllm_rs.inspect`: sizes add up, and what does not run here is described all the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import airllm_rs
from airllm_rs.errors import CheckpointError, ConfigError
from airllm_rs.families import family_of, read_config
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
    assert (found["unused_tensors"], found["ignored_tensors"]) == (["extra"], {})
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


def written(
    path: Path, config: dict[str, object], extra: dict[str, tuple[int, ...]] | None = None
) -> Path:
    """Write config.json and zeros for all tensors of its family, and ``extra`` ones."""
    parsed = read_config(config)
    specs = [spec for layer in family_of(parsed).layers(parsed) for spec in layer.tensors]
    shapes = {spec.name: spec.shape for spec in specs} | (extra or {})
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


DEEPSEEK: dict[str, object] = {
    "model_type": "deepseek_v3", "hidden_size": 64, "intermediate_size": 96,
    "moe_intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "vocab_size": 160, "first_k_dense_replace": 1, "n_routed_experts": 6, "n_shared_experts": 2,
    "num_experts_per_tok": 3, "kv_lora_rank": 24, "q_lora_rank": 40, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 12, "num_nextn_predict_layers": 1,
}  # fmt: skip


def test_dense_and_sparse_layers_latents_and_later_layers_are_told(tmp_path: Path) -> None:
    later = "model.layers.3.eh_proj.weight"
    found = inspected(written(tmp_path, DEEPSEEK, {later: (8, 8), "model.odd": (2,)}))
    dense, sparse = found["layers"][1], found["layers"][2]
    assert (dense["attention"], dense["experts"]) == ("latent", None)
    # three matrices of 64 x 32, of one expert or two that are shared, in two bytes
    assert sparse["experts"] == {
        "count": 6, "per_token": 3, "nbytes": 3 * 64 * 32 * 2, "shared_nbytes": 2 * 3 * 64 * 32 * 2,
    }  # fmt: skip
    item = 2 if found["compute_dtype"] == "BF16" else 4
    assert sparse["kv_bytes_per_token"] == (24 + 8) * item
    assert found["kv_bytes_per_token"] == 3 * (24 + 8) * item
    (rule,) = found["ignored_tensors"]
    assert "num_nextn_predict_layers" in rule
    assert found["ignored_tensors"][rule] == [later]
    assert found["unused_tensors"] == ["model.odd"]


def test_units_of_all_layers_are_listed_once(tiny_checkpoint: Callable[..., Path]) -> None:
    found = inspected(tiny_checkpoint("llama"))
    units = [unit for layer in found["layers"] for unit in layer["units"]]
    assert len(units) == found["num_units"]
    assert sum(unit["nbytes"] for unit in units) >= found["total_bytes"]
    assert all(layer["units"] for layer in found["layers"])


def test_positions_and_attention_are_told(tmp_path: Path) -> None:
    shape: dict[str, object] = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "vocab_size": 160,
    }  # fmt: skip
    alibi = inspected(written(tmp_path / "alibi", {**shape, "model_type": "baichuan"}))
    assert (alibi["positions"], alibi["rope_type"]) == ("alibi", None)
    gemma: dict[str, object] = {
        **shape, "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 16,
        "sliding_window": 32,
    }  # fmt: skip
    alternating = inspected(written(tmp_path / "gemma", gemma))
    decoders = [layer for layer in alternating["layers"] if layer["kind"] == "decoder"]
    assert [layer["attention"] for layer in decoders] == ["sliding", "full"] * 2
    assert [layer["window"] for layer in decoders] == [32, None] * 2
    assert (alternating["positions"], alternating["rope_type"]) == ("rope", "default")


def test_what_is_nearest_is_named(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    found = inspected(rewritten(tiny_checkpoint("qwen3"), tmp_path, model_type="other"))
    assert found["nearest"] == {"model_type": "qwen3", "similarity": 1.0}
    refusal = found["refusal"]
    assert "(Qwen3ForCausalLM)" in refusal
    assert "model.layers.N.input_layernorm.weight" in refusal
    assert "nearest: qwen3 (100% of the tensors' names)" in refusal
    assert "known: llama, mistral" in refusal


def test_what_is_broken_is_an_error(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = rewritten(tiny_checkpoint("llama"), tmp_path, hidden_size=128, head_dim=16)
    with pytest.raises(CheckpointError, match="has shape"):
        inspected(path)


def test_bf16_is_named_by_its_code(tiny_checkpoint: Callable[..., Path]) -> None:
    found = inspected(tiny_checkpoint("llama", dtype=torch.bfloat16))
    assert found["dtype"] == "BF16"
    assert found["compute_dtype"] in ("BF16", "F32")
