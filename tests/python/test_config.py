"""config.json is read as transformers reads it, and refused where it makes no sense."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from airllm_rs.config import KEYS, ConfigRules, parse_config, token_ids
from airllm_rs.config.parsing import ACTIVATIONS
from airllm_rs.config.rope import ROPE_TYPES
from airllm_rs.errors import AirLLMError, ConfigError, UnsupportedModelError
from airllm_rs.families import FAMILIES, read_config
from airllm_rs.layers import mlp

BASE: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
VARIANTS: list[dict[str, object]] = [
    {},
    {"rope_theta": 500000.0},
    {"rope_theta": 1000000, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_scaling": None, "rope_theta": 5000.0},
    {
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    {"rope_parameters": {"rope_type": "default", "rope_theta": 77000.0}},
    {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 10000.0},
    {"head_dim": 32},
    {"num_key_value_heads": None},
    {"eos_token_id": [1, 2], "pad_token_id": 0, "bos_token_id": None},
    {"eos_token_id": None},
    {"tie_word_embeddings": True},
    {"torch_dtype": "bfloat16"},
    {"dtype": "float16"},
    {"rms_norm_eps": 1e-5, "hidden_act": "gelu", "max_position_embeddings": 512},
    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    {"use_sliding_window": False, "sliding_window": 8},
    {"sliding_window": None},
]


CASES = [
    (model_type, variant)
    for model_type in ("llama", "mistral", "qwen2", "qwen3")
    for variant in VARIANTS
    # transformers refuses it
    if not (model_type == "mistral" and "num_key_value_heads" in variant)
]


@pytest.mark.parametrize(("model_type", "variant"), CASES, ids=json.dumps)
def test_values_are_those_of_transformers(
    model_type: str, variant: dict[str, object], tmp_path: Path
) -> None:
    raw = {"model_type": model_type, **BASE, **variant}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    theirs = AutoConfig.from_pretrained(tmp_path)
    ours = read_config(raw)
    same = [
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "rms_norm_eps", "hidden_act",
        "max_position_embeddings", "tie_word_embeddings", "bos_token_id", "pad_token_id",
    ]  # fmt: skip
    for name in same:
        assert getattr(ours, name) == getattr(theirs, name), name
    head_dim = theirs.to_dict().get("head_dim") or 64 // 4
    assert ours.head_dim == head_dim
    assert dict(ours.rope_parameters) == theirs.rope_parameters
    eos = theirs.eos_token_id
    assert ours.eos_token_ids == (() if eos is None else tuple(eos if type(eos) is list else [eos]))
    assert ours.dtype == (str(theirs.dtype).removeprefix("torch.") if theirs.dtype else None)
    their_window = theirs.to_dict().get("sliding_window")
    if model_type == "llama":
        assert ours.windows == (None,) * 4
    elif model_type == "mistral":
        assert ours.windows == (their_window,) * 4
    else:
        assert list(ours.layer_types) == theirs.layer_types
        assert ours.sliding_window == their_window


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": 0}, "hidden_size is 0, expected 1 or more"),
        ({"hidden_size": "64"}, "hidden_size is '64', expected a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, r"\(4\) is not a multiple of num_key_value_heads \(3\)"),
        ({"head_dim": 7}, r"head_dim \(7\) is odd"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', expected true or false"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
        ({"rope_scaling": 2.0}, "rope_scaling is 2.0, expected an object"),
        ({"rope_scaling": {"rope_type": 3}}, "rope_type is 3"),
        ({"model_type": 3}, "model_type is 3"),
    ],
)
def test_nonsense_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config({"model_type": "llama", **BASE, **change})


def test_layer_types_are_checked() -> None:
    qwen = {"model_type": "qwen2", **BASE, "use_sliding_window": True, "sliding_window": 8}
    full = "full_attention"
    with pytest.raises(ConfigError, match="layer_types has 2 entries, num_hidden_layers is 4"):
        read_config({**qwen, "layer_types": [full] * 2})
    with pytest.raises(ConfigError, match="linear_attention"):
        read_config({**qwen, "layer_types": [full] * 3 + ["linear_attention"]})
    mixed = [full, "sliding_attention", full, "sliding_attention"]
    assert read_config({**qwen, "layer_types": mixed}).windows == (None, 8, None, 8)


def test_unknown_model_type_lists_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mamba'.*llama, mistral, .*qwen2, qwen3"):
        read_config({"model_type": "mamba", **BASE})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "spark"}, "hidden_act 'spark' is not known; known: silu"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_type 'spiral' is not known"),
    ],
)
def test_what_no_layer_can_do_is_refused_before_anything_is_loaded(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config({"model_type": "llama", **BASE, **change})


def test_the_known_words_are_those_that_layers_know() -> None:
    assert tuple(mlp.ACTIVATIONS) == ACTIVATIONS
    assert set(ROPE_TYPES) == {"default", *ROPE_INIT_FUNCTIONS}


def test_remote_code_is_named_and_never_run() -> None:
    raw = {"model_type": "custom", "auto_map": {"AutoModel": "modeling.X"}, **BASE}
    with pytest.raises(UnsupportedModelError, match="never executed"):
        read_config(raw)
    assert read_config({**raw, "model_type": "llama"}).model_type == "llama"


def test_weights_quantised_by_a_method_that_is_not_read_are_refused() -> None:
    raw = {"model_type": "llama", **BASE, "quantization_config": {"quant_method": "hqq"}}
    with pytest.raises(UnsupportedModelError, match=r"hqq.*can be: .*gptq"):
        read_config(raw)
    read_config({**raw, "quantization_config": {"quant_method": "gptq"}})


def test_overrides_are_laid_over_and_checked() -> None:
    raw = {"model_type": "llama", **BASE}
    scaled = {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}
    config = read_config(raw, scaled)
    assert config.rope_parameters["factor"] == 3.0
    assert config.raw["rope_scaling"] == scaled["rope_scaling"]
    with pytest.raises(ConfigError, match="'norm_head' is not read here"):
        read_config(raw, {"norm_head": True})
    with pytest.raises(ConfigError, match="sliding_window"):
        read_config(raw, {"sliding_window": 4})


words = st.text("ab", max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(st.sampled_from(sorted(KEYS - {"model_type"})), json_values, max_size=4),
)
def test_hostile_values_give_our_error_or_a_config(
    model_type: str, change: dict[str, object]
) -> None:
    try:
        config = read_config({"model_type": model_type, **BASE, **change})
    except AirLLMError as error:
        assert "\n" not in str(error)  # noqa: PT017 either outcome is right
    else:
        assert config.head_dim % 2 == 0
        assert config.num_attention_heads % config.num_key_value_heads == 0


def test_defaults_fill_in_only_what_is_absent() -> None:
    raw = {"model_type": "llama", **BASE, "head_dim": 8}
    config = parse_config(
        raw, rules=ConfigRules(defaults={"head_dim": 32, "max_position_embeddings": 9})
    )
    assert (config.head_dim, config.max_position_embeddings) == (8, 9)


def test_token_ids_come_as_nothing_a_number_or_a_list() -> None:
    assert [token_ids(value, "x") for value in (None, 3, [3, 4])] == [(), (3,), (3, 4)]
