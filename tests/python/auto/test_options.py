"""What callers ask for is checked before anything is opened."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import airllm_rs
from airllm_rs.auto.options import LoadOptions, from_keywords


def test_aliases_are_accepted() -> None:
    options = from_keywords({"dtype": None, "torch_dtype": "torch.bfloat16", "token": "t"})
    assert options.dtype_code == "BF16"
    assert options.hf_token == "t"


@pytest.mark.parametrize(
    ("keyword", "word"),
    [
        ("device_map", "memory="),
        ("load_in_4bit", 'compression="4bit"'),
        ("quantization_config", "compression="),
        ("max_memory", "device_memory="),
    ],
)
def test_other_libraries_words_are_refused_with_ours(keyword: str, word: str) -> None:
    with pytest.raises(TypeError, match=word):
        from_keywords({keyword: "auto"})


def test_an_unknown_keyword_and_a_double_one_are_errors() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'contxt'"):
        from_keywords({"contxt": 3})
    with pytest.raises(TypeError, match="both torch_dtype= and dtype="):
        from_keywords({"dtype": "bf16", "torch_dtype": "fp16"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compression", "3bit"),
        ("device_memory", "4GiB"),
        ("kv_cache_dtype", "int8"),
        ("draft_memory", "1GiB"),
        ("draft", "prompt-lookup"),
        ("verify", "sometimes"),
        ("device", "cuda:0"),
        ("device", "mlx"),
        ("engine", "psync"),
        ("dtype", "int7"),
        ("context", 0),
        ("max_num_seqs", 0),
        ("latency_us", -1),
        ("throttle_gbps", 0.0),
        ("weights_memory", "much"),
    ],
)
def test_what_cannot_be_raises_and_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        LoadOptions(**{name: value})  # type: ignore[arg-type]


def test_positional_parameters_are_airllms() -> None:
    names = list(inspect.signature(airllm_rs.AutoModel.from_pretrained).parameters)
    assert names[:10] == [
        "pretrained_model_name_or_path", "device", "dtype", "max_seq_len",
        "layer_shards_saving_path", "profiling_mode", "compression", "hf_token", "prefetching",
        "delete_original",
    ]  # fmt: skip


def test_the_package_is_lazy_and_lists_what_it_has() -> None:
    script = """
import sys, airllm_rs
assert "airllm_rs.auto" not in sys.modules
for name in dir(airllm_rs): getattr(airllm_rs, name)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'AirLLM'"):
        _ = airllm_rs.AirLLM
