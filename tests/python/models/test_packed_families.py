"""Quantised checkpoints of families that fuse matrices, have experts or latents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

import airllm_rs
from loading import load
from models import in_tree
from packed_formats import FORMATS, mxfp4
from tiny import prompt, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE: dict[str, object] = {"hidden_size": 256, "intermediate_size": 320}
EXPERTS: dict[str, object] = {"moe_intermediate_size": 128, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, object]] = {
    "phi3": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**EXPERTS, "num_experts": 4, "head_dim": 64},
    # no size of the latents is a multiple of the blocks
    "deepseek_v3": {
        **EXPERTS,
        "num_key_value_heads": 4,
        "q_lora_rank": 192,
        "kv_lora_rank": 64,
        "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 64,
        "v_head_dim": 64,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "num_nextn_predict_layers": 1,
    },
}
CASES = (
    ("phi3", "gptq"),
    ("phi3", "bnb nf4 nested"),
    ("mixtral", "awq"),
    ("mixtral", "packed"),
    ("qwen3_moe", "gptq"),
    ("qwen3_moe", "fp8 blocks"),
    ("deepseek_v3", "fp8 blocks"),
    ("deepseek_v3", "awq"),
)
ROUTERS = ("mlp.gate.weight", "block_sparse_moe.gate.weight")


def packed(path: Path, family: str, name: str) -> tuple[Path, Path]:
    """Write a checkpoint packed as it is published, and one of what it means; return both."""
    settings, encode, _ = FORMATS[name]
    plain = tiny_checkpoint(family, path / "plain", **{**SHAPE, **FAMILIES[family]})  # type: ignore[arg-type]
    weights = load_file(plain / "model.safetensors")
    tensors: dict[str, Tensor] = {}
    for key, tensor in list(weights.items()):
        is_small = tensor.dim() != 2 or key.endswith(ROUTERS)
        if is_small or "embed" in key or "lm_head" in key:
            tensors[key] = tensor
            continue
        module = key.removesuffix("weight")
        parts, weights[key] = encode(tensor)
        tensors |= {module + part: found.contiguous() for part, found in parts.items()}
    if family == "deepseek_v3":  # the layer that guesses further tokens comes along
        last = "model.layers.1."
        tensors |= {
            key.replace(last, "model.layers.2."): tensor.clone()
            for key, tensor in tensors.items()
            if key.startswith(last)
        }
        tensors["model.layers.2.enorm.weight"] = torch.ones(256)
    return _write(path, plain, weights, tensors, settings)


def _write(
    path: Path,
    plain: Path,
    weights: dict[str, Tensor],
    tensors: dict[str, Tensor],
    settings: Mapping[str, object],
) -> tuple[Path, Path]:
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    target = path / "packed"
    target.mkdir()
    config = json.loads((plain / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target, plain


def compare(path: Path, plain: Path) -> None:
    """Compare a checkpoint with transformers on what it means, many rows at a time and few."""
    model = in_tree.model_of(plain)
    with torch.no_grad():
        for mode in ("resident", "streamed", "chunks held"):
            with load(path, mode) as ours:
                for ids in (prompt(40), prompt(3)):
                    want = model(ids).logits
                    difference = (ours(ids).logits - want).abs().max() / want.abs().max()
                    assert difference < 1e-4


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_model_is_transformers_with_the_weights_unpacked(
    family: str, name: str, tmp_path: Path
) -> None:
    path, plain = packed(tmp_path, family, name)
    found = airllm_rs.inspect(path)
    assert found["native"] is True
    assert found["unused_tensors"] == []
    compare(path, plain)


def test_experts_of_gpt_oss_run_as_they_are_published(tmp_path: Path) -> None:
    plain = in_tree.write("gpt_oss", tmp_path / "plain")
    weights = load_file(plain / "model.safetensors")
    tensors: dict[str, Tensor] = {}
    for key, tensor in list(weights.items()):
        if tensor.dim() != 3:
            tensors[key] = tensor
            continue
        each = [mxfp4(expert.T.contiguous()) for expert in tensor]
        weights[key] = torch.stack([meant.T for _, meant in each]).contiguous()
        q = torch.stack([parts["weight_packed"] for parts, _ in each])
        tensors[f"{key}_blocks"] = q.reshape(*q.shape[:2], -1, 16).contiguous()
        tensors[f"{key}_scales"] = torch.stack([parts["weight_scale"] for parts, _ in each])
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens"]
    settings: dict[str, object] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [*kept, "lm_head"],
    }
    path, plain = _write(tmp_path, plain, weights, tensors, settings)
    assert airllm_rs.inspect(path)["quantization"]["schemes"] == {"mxfp4": 6}  # type: ignore[index]
    compare(path, plain)
    # transformers unpacks it as well, where there is no kernel for it
    ids = prompt(9)
    with torch.no_grad(), load(path, "streamed") as ours:
        want = in_tree.model_of(path)(ids).logits
        torch.testing.assert_close(ours(ids).logits, want, atol=1e-4, rtol=1e-4)
