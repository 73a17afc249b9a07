"""What files of single architectures say, beyond what their models' logits show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
import pytest
from safetensors.numpy import load_file

from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.errors import CheckpointError, UnsupportedModelError
from airllm_rs.families import read_config
from gguf_converter import convert
from models import in_tree
from models.originals import cases

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airllm_rs.config import ModelConfig

Keys = dict[str, object]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return what writes the file of a kind or case, with more keys of metadata."""

    def write(name: str, keys: Keys | None = None, **config: object) -> Path:
        if name in cases.CASES:
            found: dict[str, Any] = {**cases.CASES[name].config}
            tensors = cases.weights(name)
        else:
            checkpoint = in_tree.write(name, tmp_path / "checkpoint")
            found = json.loads((checkpoint / "config.json").read_text())
            tensors = load_file(checkpoint / "model.safetensors")
        finish = gguf.GGUFWriter.write_header_to_file

        def with_keys(writer: gguf.GGUFWriter, path: Path | None = None) -> None:
            for key, value in (keys or {}).items():
                whole = f"{writer.arch}.{key}"
                writer.kv_data[0].pop(whole, None)
                kind = gguf.GGUFValueType.get_type(value)
                if kind == gguf.GGUFValueType.INT32:
                    kind = gguf.GGUFValueType.UINT32
                writer.add_key_value(whole, value, kind)
            finish(writer, path)

        with monkeypatch.context() as patch:
            patch.setattr(gguf.GGUFWriter, "write_header_to_file", with_keys)
            return convert(tmp_path / "a.gguf", found | config, tensors)

    return write


def config_of(path: Path) -> ModelConfig:
    return read_config(open_checkpoint(path).config)


SLIDING, FULL = "sliding_attention", "full_attention"


def test_gemma_2_has_a_window_in_every_other_layer(file_of: Callable[..., Path]) -> None:
    config = config_of(file_of("gemma2"))
    assert config.layer_types == (SLIDING, FULL, SLIDING)
    assert config.keys.positive("query_pre_attn_scalar", 0) == config.head_dim


def test_gemma_3_says_what_differs_from_what_is_usual(file_of: Callable[..., Path]) -> None:
    keys: Keys = {
        "attention.sliding_window_pattern": [True, False, False],
        "rope.freq_base_swa": 100.0,
        "attention.scale": 0.5,
        "final_logit_softcapping": 20.0,
    }
    config = config_of(file_of("gemma3_text", keys))
    assert config.layer_types == (SLIDING, FULL, FULL)
    assert config.sliding_rope_parameters is not None
    assert config.sliding_rope_parameters["rope_theta"] == 100.0
    assert config.rope_parameters["rope_type"] == "linear"
    assert config.keys.positive("query_pre_attn_scalar", 0) == 4.0
    assert config.keys.optional_positive("final_logit_softcapping") == 20.0
    counted = config_of(file_of("gemma3_text", {"attention.sliding_window_pattern": 3}))
    assert counted.layer_types == (SLIDING, SLIDING, FULL)


@pytest.mark.parametrize(("name", "layers"), [("gemma2", 46), ("gemma3_text", 62)])
def test_the_largest_gemma_scales_by_its_hidden_size(
    name: str, layers: int, tmp_path: Path
) -> None:
    checkpoint = in_tree.write(name, tmp_path / "c", others={"num_hidden_layers": 3})
    config = json.loads((checkpoint / "config.json").read_text())
    tensors = load_file(checkpoint / "model.safetensors")
    more = {
        key.replace("layers.2.", f"layers.{n}."): tensor
        for n in range(3, layers)
        for key, tensor in tensors.items()
        if "layers.2." in key
    }
    config |= {"num_hidden_layers": layers, "num_attention_heads": 4, "hidden_size": 64}
    found = config_of(convert(tmp_path / "a.gguf", config, tensors | more))
    assert found.keys.positive("query_pre_attn_scalar", 0) == 64 / 4


def test_files_without_groups_of_experts_have_one(file_of: Callable[..., Path]) -> None:
    path = file_of("deepseek_v2, no q_lora")
    keys = config_of(path).keys
    assert (keys.count("n_group"), keys.text("topk_method")) == (1, "greedy")
    grouped = config_of(file_of("deepseek_v2")).keys
    assert (grouped.count("n_group"), grouped.count("topk_group")) == (4, 2)
    assert grouped.text("topk_method") == "group_limited_greedy"


def test_qwen_runs_as_llama_cpp_runs_it(file_of: Callable[..., Path]) -> None:
    keys = config_of(file_of("qwen")).keys
    assert not keys.flag("use_dynamic_ntk", True)
    assert not keys.flag("use_logn_attn", True)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("glm4", {"rope.dimension_sections": [8, 12, 12]}, r"has glm4\.rope\.dimension_sections"),
        ("granite", {"rope.scaling.finetuned": False}, r"rope\.scaling\.finetuned is False"),
        ("deepseek_v2", {"expert_gating_func": 3}, "expert_gating_func is 3"),
        ("chatglm3", {"rope.dimension_count": 2}, "only half a head unscaled is known"),
        ("qwen", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, "QWen has not"),
        ("phi3", {"rope.scaling.attn_factor": 1.5}, r"attn_factor is 1\.5"),
        ("qwen3", {"rope.scaling.attn_factor": 1.5}, r"attn_factor is 1\.5"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, r"attn_logit_softcapping is 5\.0"),
    ],
)
def test_what_would_be_another_model_is_refused(
    file_of: Callable[..., Path], name: str, keys: Keys, message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        open_checkpoint(file_of(name, keys))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("qwen", {"feed_forward_length": 161}, "is odd; it counts gate and up"),
        ("deepseek_v3", {"rope.dimension_count": 20}, "of which"),
        ("deepseek_v3", {"expert_count": 9}, r"ffn_gate_inp\.weight has shape \[8, 64\]"),
        ("gpt_oss", {"attention.sliding_window": 0}, "is 0, expected a whole number above 0"),
        ("phi3, partial longrope", {"rope.dimension_count": 8}, r"has shape \[6\], expected \[4\]"),
        ("gemma3_text", {"attention.sliding_window_pattern": [True]}, "lists 1 layers of 3"),
        ("mixtral", {"expert_count": 3}, r"ffn_gate_inp\.weight has shape \[4, 64\]"),
    ],
)
def test_what_contradicts_itself_is_named(
    file_of: Callable[..., Path], name: str, keys: Keys, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(file_of(name, keys))
    assert "\n" not in str(caught.value)
