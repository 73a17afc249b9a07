"""Checkpoints that are not what they claim: which key, which tensor, expected and found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airllm_rs.checkpoint.stored import TensorInfo, plain
from airllm_rs.errors import CheckpointError, ConfigError, UnknownModelError, UnsupportedModelError
from airllm_rs.families import FAMILIES, family_of, read_config, unknown_model, validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.checkpoint import StoredWeight

SHAPE: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 160,
    "max_position_embeddings": 128,
}


class Weights:
    """Weights by name and shape alone."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def weight_names(self) -> list[str]:
        return list(self.shapes)

    def stored(self, name: str) -> StoredWeight:
        return plain(name, TensorInfo("BF16", self.shapes[name], 0, 0, 0))


def refused(model_type: str, shapes: Mapping[str, tuple[int, ...]], **keys: object) -> str:
    """Return what is said of a checkpoint whose tensors are right but for ``shapes``."""
    config = read_config({"model_type": model_type, **SHAPE, **keys})
    family = family_of(config)
    right = {spec.name: spec.shape for layer in family.layers(config) for spec in layer.tensors}
    with pytest.raises(CheckpointError) as caught:
        validate(config, family, Weights({**right, **shapes}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_keys_behind_a_wrong_size_are_named() -> None:
    message = refused("llama", {"model.layers.1.self_attn.k_proj.weight": (64, 64)})
    assert message == (
        "model.layers.1.self_attn.k_proj.weight has shape [64, 64], expected [32, 64] from "
        "config.json (32 from num_key_value_heads (2), head_dim (16))"
    )
    message = refused("llama", {"model.norm.weight": (65,)})
    assert "expected [64] from config.json (64 from hidden_size (64))" in message
    message = refused("llama", {"model.layers.0.mlp.down_proj.weight": (65, 97)})
    assert "64 from hidden_size (64); 96 from intermediate_size (96)" in message


def test_keys_of_one_family_alone_are_named() -> None:
    message = refused(
        "deepseek_v3",
        {"model.layers.0.self_attn.kv_a_layernorm.weight": (7,)},
        kv_lora_rank=24,
        n_routed_experts=2,
    )
    assert "24 from kv_lora_rank (24)" in message


@pytest.mark.parametrize(
    ("model_type", "name", "rows"),
    [
        ("phi3", "model.layers.0.self_attn.qkv_proj.weight", 128),
        ("baichuan", "model.layers.0.self_attn.W_pack.weight", 192),
        ("internlm2", "model.layers.0.attention.wqkv.weight", 128),
        ("chatglm", "transformer.encoder.layers.0.self_attention.query_key_value.weight", 128),
        ("glm", "model.layers.0.mlp.gate_up_proj.weight", 192),
    ],
)
def test_a_fused_matrix_of_other_rows_is_refused(model_type: str, name: str, rows: int) -> None:
    message = refused(model_type, {name: (rows - 8, 64)})
    assert message.startswith(f"{name} has shape [{rows - 8}, 64], expected [{rows}, 64] from")
    assert "config.json (" in message


def test_another_number_of_dimensions_is_refused() -> None:
    message = refused("llama", {"model.layers.0.self_attn.q_proj.weight": (4, 16, 64)})
    assert "[4, 16, 64], expected [64, 64]" in message


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_a_key_that_is_missing_is_named(key: str) -> None:
    raw = {"model_type": "llama", **SHAPE}
    del raw[key]
    with pytest.raises(ConfigError, match=f"config.json: {key} is missing"):
        read_config(raw)


def test_missing_tensors_are_told_with_those_that_are_there_instead() -> None:
    config = read_config({"model_type": "llama", **SHAPE})
    with pytest.raises(
        CheckpointError, match=r"lacks model.embed_tokens.weight.*it has wte instead"
    ):
        validate(config, family_of(config), Weights({"wte": (160, 64)}))


def test_an_unknown_model_is_told_with_what_was_found() -> None:
    raw = {"model_type": "snake", "architectures": ["SnakeForCausalLM"]}
    message = str(unknown_model(raw, ["backbone.layers.0.mixer.A_log", "backbone.norm_f.weight"]))
    assert message.startswith("model_type 'snake' (SnakeForCausalLM) is known neither here nor")
    assert "tensors backbone.layers.N.mixer.A_log, backbone.norm_f.weight" in message
    assert message.endswith(f"known: {', '.join(FAMILIES)}")
    with pytest.raises(UnknownModelError, match="nearest: mistral; known"):
        read_config({"model_type": "ministral"})


def test_code_of_a_checkpoint_is_never_run() -> None:
    with pytest.raises(UnsupportedModelError, match="never executed"):
        read_config({"model_type": "strange", "auto_map": {"AutoModel": "x.Y"}})
