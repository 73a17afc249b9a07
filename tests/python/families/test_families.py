"""Families name the tensors that transformers' modules have, in order of use."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from airllm_rs.families import family_of, read_config, understand
from loading import open_files
from models import in_tree
from models.architectures import ROWS, Row

BASE: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
    "pad_token_id": 0,
}
VARIANTS: list[dict[str, object]] = [
    {},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"head_dim": 32},
    {"tie_word_embeddings": True},
    {"num_key_value_heads": 4},
]


DENSE = (
    "llama", "mistral", "qwen2", "qwen3", "phi3", "glm", "glm4", "gemma2", "gemma3_text", "granite",
)  # fmt: skip
"""Families of transformers' that a config.json of these keys alone is enough for."""


@pytest.mark.parametrize("model_type", DENSE)
@pytest.mark.parametrize("variant", VARIANTS, ids=json.dumps)
def test_names_and_shapes_are_those_of_transformers(
    model_type: str, variant: dict[str, object], tmp_path: Path
) -> None:
    raw = {"model_type": model_type, **BASE, **variant}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.from_pretrained(tmp_path)
        )
    config = read_config(raw)
    layers = family_of(config).layers(config)
    ours = {spec.name: spec.shape for layer in layers for spec in layer.tensors}
    # named_parameters, unlike state_dict, names a tied table once
    assert ours == {name: tuple(p.shape) for name, p in theirs.named_parameters()}


@pytest.mark.parametrize("model_type", [*DENSE, "mixtral", "qwen3_moe"])
def test_what_a_file_lacks_is_as_transformers_fills_it_in(model_type: str) -> None:
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    raw = {"num_attention_heads": 32, **{key: BASE[key] for key in sizes}}
    config = read_config({"model_type": model_type, **raw})
    theirs = AutoConfig.for_model(model_type, **raw)
    parameters = theirs.rope_parameters.get("full_attention", theirs.rope_parameters)
    assert config.rope_parameters["rope_theta"] == parameters["rope_theta"]
    assert config.num_key_value_heads == theirs.num_key_value_heads
    assert config.rms_norm_eps == theirs.rms_norm_eps
    assert config.tie_word_embeddings == theirs.tie_word_embeddings
    assert config.max_position_embeddings == theirs.max_position_embeddings
    assert config.sliding_window == getattr(theirs, "sliding_window", None)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "qwen3_moe"])
def test_windows_are_where_transformers_has_them(model_type: str, first: int) -> None:
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": first}
    config = read_config({"model_type": model_type, **BASE, **window})
    # Qwen3 MoE has no list of kinds: its window is that of all layers
    theirs = AutoConfig.for_model(model_type, **BASE, **window)
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 2
    assert list(config.layer_types) == kinds


def test_zeros_of_deepseek_mean_none() -> None:
    row = ROWS["deepseek_v3"]
    raw = AutoConfig.for_model("deepseek_v3", **{**BASE, **in_tree.KINDS[row.name][1]}).to_dict()
    config = read_config({**raw, "num_nextn_predict_layers": 0, "n_shared_experts": 0})
    family = family_of(config)
    names = {spec.name for layer in family.layers(config) for spec in layer.tensors}
    assert not any("shared_experts" in name for name in names)
    assert not family.is_ignorable("model.layers.2.enorm.weight", config)
    one_more = read_config({**raw, "num_nextn_predict_layers": 1})
    assert family.is_ignorable("model.layers.2.enorm.weight", one_more)


@pytest.mark.parametrize("row", ROWS.values(), ids=str)
def test_a_checkpoint_has_what_its_family_names_and_no_more(row: Row, tmp_path: Path) -> None:
    files = open_files(row.write(tmp_path))
    config, family, unused = understand(read_config(files.config, row.overrides), files)
    assert not unused
    layers = family.layers(config)
    assert len(layers) == config.num_hidden_layers + 3
    for layer in layers:
        assert len(layer.parameters) == len(layer.tensors), "a parameter is two tensors"


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_layers_are_in_order_of_use(model_type: str) -> None:
    config = read_config({"model_type": model_type, **BASE, "attention_bias": True})
    layers = family_of(config).layers(config)
    assert [layer.name for layer in layers] == [
        "embed_tokens", "layers.0", "layers.1", "norm", "lm_head",
    ]  # fmt: skip
    order = [spec.name.split(".")[-2] for spec in layers[1].tensors]
    used = [name for index, name in enumerate(order) if name not in order[:index]]
    assert [name for name in used if not name.endswith("_norm")] == [
        "input_layernorm", "q_proj", "k_proj", "v_proj", "o_proj",
        "post_attention_layernorm", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip


def test_the_head_of_a_tied_model_is_the_table() -> None:
    config = read_config({"model_type": "llama", **BASE, "tie_word_embeddings": True})
    layers = family_of(config).layers(config)
    assert layers[0].tensors == layers[-1].tensors
    assert family_of(config).is_ignorable("lm_head.weight", config)


def test_what_nothing_needs_may_be_there() -> None:
    config = read_config({"model_type": "llama", **BASE})
    family = family_of(config)
    assert family.is_ignorable("model.layers.0.self_attn.rotary_emb.inv_freq", config)
    assert not family.is_ignorable("lm_head.weight", config)
    assert not family.is_ignorable("model.layers.0.self_attn.extra", config)


def test_kv_bytes_count_keys_and_values_of_all_layers() -> None:
    config = read_config({"model_type": "llama", **BASE})
    assert family_of(config).kv_bytes_per_token(config, 2) == 2 * 2 * 2 * 16 * 2
