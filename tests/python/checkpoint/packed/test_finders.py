"""What is packed in a way that cannot be read is refused in one line that names it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

import airllm_rs
from airllm_rs.auto.opening import open_files
from airllm_rs.auto.options import LoadOptions
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.errors import AirLLMError, CheckpointError, StoreError, UnsupportedModelError
from airllm_rs.families import read_config
from airllm_rs.stats.progress import NoProgress
from packed_checkpoints import packed_checkpoint
from packed_formats import FORMATS, four_bits, gptq, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

MODULE = "model.layers.0.mlp.down_proj."
CONFIG: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 320,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 16,
}


def write(path: Path, tensors: dict[str, Tensor], settings: dict[str, object]) -> Path:
    """Write a checkpoint with one packed module and nothing else."""
    (path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": settings}))
    named = {MODULE + name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, path / "model.safetensors", metadata={"format": "pt"})
    return path


def encoded(name: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return the tensors of a module in a format, and its quantization_config."""
    settings, encode, _ = FORMATS[name]
    weight = torch.randn(256, 320, generator=torch.Generator().manual_seed(1))
    return encode(weight)[0], settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "hqq"}, r"quantised \(hqq\), which cannot be read; can be: fp8, .*gptq"),
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "eetq"}, "eetq"),
        ({"quant_method": "quip"}, "quip"),
        ({}, "without a quant_method"),
        ("fp8", "without a quant_method"),
        ({"quant_method": "gptq", "bits": 3}, "GPTQ with bits 3 cannot be read; can be: 4, 8"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "'marlin'"),
        ({"quant_method": "awq", "bits": 8}, "AWQ with bits 8"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version 'gemv'"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:mlx"}, "'auto_round:mlx'"),
        ({"quant_method": "gptq", "format": "gptq_p"}, "'gptq_p'"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "format 'marlin-24'"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 2}}},
            },
            "num_bits 2",
        ),
        ({"quant_method": "compressed-tensors", "transform_config": {"a": 1}}, "transform_config"),
        (
            {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}},
            "sparsity",
        ),
    ],
)  # fmt: skip
def test_a_method_that_cannot_be_read_is_refused_by_its_configuration(
    settings: object, message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_config({**CONFIG, "quantization_config": settings})


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gptq", "qzeros"),
        ("gptq", "scales"),
        ("awq", "scales"),
        ("packed", "weight_scale"),
        ("packed", "weight_shape"),
        ("nvfp4", "weight_scale"),
        ("nvfp4", "weight_global_scale"),
        ("fp8 blocks", "weight_scale_inv"),
        ("bnb nf4", "weight.absmax"),
        ("bnb nf4", "weight.quant_map"),
        ("bnb nf4 nested", "weight.nested_quant_map"),
    ],
)
def test_a_part_that_is_missing_is_named(name: str, part: str, tmp_path: Path) -> None:
    tensors, settings = encoded(name)
    del tensors[part]
    with pytest.raises(CheckpointError, match=MODULE + part.replace("_inv", "")):
        open_checkpoint(write(tmp_path, tensors, settings))


def rewritten(state: dict[str, object]) -> Tensor:
    return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


_STATE = "weight.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gptq", {"scales": torch.ones(7, 256).half()}, r"qzeros has shape \[5, 32\]"),
        ("gptq", {"qzeros": torch.ones(5, 8, dtype=torch.int32)}, "GPTQ with 1 bits.*can be: 4, 8"),
        ("gptq", {"g_idx": torch.full((320,), 9, dtype=torch.int32)}, "groups that do not exist"),
        ("gptq", {"qweight": torch.ones(40, 256)}, "qweight is of F32, expected I32"),
        ("awq", {"qweight": torch.ones(320, 30, dtype=torch.int32)}, r"expected \[320, 32\]"),
        ("packed", {"weight_scale": torch.ones(256, 7)}, "320 columns do not divide into 7 groups"),
        ("packed", {"weight_shape": torch.tensor([256, 300])}, r"with 4\.27 bits"),
        ("packed", {"weight_shape": torch.tensor([-1, 320])}, r"says \[-1, 320\]"),
        ("int8", {"weight_scale": torch.ones(())}, "one scale for a whole matrix"),
        ("packed", {"weight_scale": torch.ones(1)}, "one scale for a whole matrix"),
        ("fp8 channel", {"weight_zero_point": torch.ones(256, 1)}, "signed numbers with zero"),
        ("int8", {"weight_zero_point": torch.ones(256, 1)}, "signed numbers with zero points"),
        ("nvfp4", {"weight_scale": torch.ones(256, 3).to(torch.float8_e4m3fn)}, r"\[256, 20\]"),
        ("fp8 blocks", {"weight_scale_inv": torch.ones(3, 3)}, r"expected one scale, one per row"),
        ("fp8 blocks", {"weight_scale_inv": torch.ones(2, 3, dtype=torch.int32)}, "is of I32"),
        ("bnb nf4", {"weight.absmax": torch.ones(1279)}, "expected 1280 items"),
        ("bnb nf4", {_STATE: rewritten({"shape": [256, 320], "blocksize": 0})}, "blocksize 0"),
        ("bnb nf4", {_STATE: rewritten({"shape": ["a"], "blocksize": 64})}, r"shape \['a'\]"),
        ("bnb nf4", {_STATE: rewritten({"shape": [1 << 39, 320], "blocksize": 64})}, "bytes"),
        ("bnb nf4", {_STATE: torch.full((9,), 91, dtype=torch.uint8)}, "is not JSON"),
        ("bnb nf4", {"weight.quant_map": torch.full((16,), torch.nan)}, "not finite"),
        ("bnb int8", {"SCB": torch.ones(3)}, r"SCB has shape \[3\]"),
        ("bnb int8", {"weight_format": torch.tensor(1, dtype=torch.uint8)}, "packed.*for a GPU"),
    ],
)
def test_a_part_that_does_not_fit_is_named_with_what_it_should_be(
    name: str, change: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    tensors, settings = encoded(name)
    with pytest.raises(AirLLMError, match=message) as caught:
        open_checkpoint(write(tmp_path, tensors | change, settings))
    assert "\n" not in str(caught.value)
    assert MODULE[:-1] in str(caught.value)


def test_columns_that_end_within_a_group_are_read_where_the_configuration_says_so(
    tmp_path: Path,
) -> None:
    tensors, _ = gptq(torch.randn(256, 320), group=128)  # three groups, the last of 64
    settings: dict[str, object] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    files = open_checkpoint(write(tmp_path, tensors, settings))
    assert files.packed[f"{MODULE}weight"].shape == (256, 320)
    with pytest.raises(CheckpointError, match="320 columns do not divide into them"):
        open_checkpoint(write(tmp_path, tensors, {**settings, "group_size": 64}))


@pytest.mark.parametrize(
    ("name", "part", "value"),
    [("gptq", "g_idx", 0), ("packed", "weight_g_idx", -1)],
)
def test_an_index_that_nobody_filled_is_none(
    name: str, part: str, value: int, tmp_path: Path, decoded: Callable[..., Tensor]
) -> None:
    settings, encode, _ = FORMATS[name]
    tensors, numbers = encode(torch.randn(256, 320))
    tensors[part] = torch.full((320,), value, dtype=torch.int32)
    files = open_checkpoint(write(tmp_path, tensors, settings))
    assert torch.equal(decoded(files, f"{MODULE}weight"), numbers)
    assert MODULE + part not in files.weight_names()


@pytest.mark.parametrize("name", ["int8", "fp8 channel"])
def test_zero_points_that_are_zero_change_nothing(
    name: str, tmp_path: Path, decoded: Callable[..., Tensor]
) -> None:
    settings, encode, _ = FORMATS[name]
    tensors, numbers = encode(torch.randn(256, 320))
    tensors["weight_zero_point"] = torch.zeros(256, 1, dtype=torch.int8)
    files = open_checkpoint(write(tmp_path, tensors, settings))
    assert torch.equal(decoded(files, f"{MODULE}weight"), numbers)
    assert f"{MODULE}weight_zero_point" not in files.weight_names()


@pytest.mark.parametrize(
    ("settings", "is_v2"),
    [
        ({"quant_method": "gptq"}, False),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, True),
        ({"quant_method": "gptq", "format": "gptq_v2"}, True),
        ({"quant_method": "auto-round"}, False),
        ({"quant_method": "auto-round", "packing_format": "auto_round:gptq"}, False),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, False),
        ({"quant_method": "auto-round", "packing_format": "auto_round:gptqmodel"}, True),
        ({"quant_method": "auto-round", "packing_format": "auto_round"}, True),
    ],
)
def test_zero_points_are_read_as_whoever_packed_them_means_them(
    settings: dict[str, object], is_v2: bool, tmp_path: Path, decoded: Callable[..., Tensor]
) -> None:
    tensors, numbers = gptq(torch.randn(256, 320), v2=is_v2)
    files = open_checkpoint(write(tmp_path, tensors, {**settings, "bits": 4, "group_size": 64}))
    read_config(files.config)
    assert torch.equal(decoded(files, f"{MODULE}weight"), numbers)


def test_bits_of_a_tensor_may_be_others_than_the_configuration_says(tmp_path: Path) -> None:
    tensors, _ = gptq(torch.randn(256, 320), bits=8)
    files = open_checkpoint(write(tmp_path, tensors, {"quant_method": "gptq", "bits": 4}))
    assert files.packed[f"{MODULE}weight"].dtype == "gptq-8bit"


def test_encoding_what_is_quantised_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path, _ = packed_checkpoint(tmp_path, "awq")
    options = LoadOptions(compression="4bit")
    with pytest.raises(StoreError, match=r"quantised already \(awq-4bit\).*leave compression= out"):
        open_files(path, options, NoProgress())
    from store_making import make

    with pytest.raises(StoreError, match="leave compression= out"):
        make(path, tmp_path / "store", scheme="8bit")
    assert not (tmp_path / "store").exists()


def test_each_tensor_is_what_it_is(tmp_path: Path) -> None:
    path, _ = packed_checkpoint(tmp_path, "gptq")
    _, plain = FORMATS["gptq"][1](torch.randn(256, 320))
    tensors = load_file(path / "model.safetensors")
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        del tensors[MODULE + part]
    other, _ = FORMATS["fp8 channel"][1](plain)
    tensors |= {MODULE + name: tensor for name, tensor in other.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    found = airllm_rs.inspect(path)
    assert found["quantization"] == {
        "method": "gptq", "schemes": {"gptq-4bit": 13, "fp8-channel": 1}
    }  # fmt: skip
    described = {tensor["name"]: tensor for tensor in found["layers"][1]["tensors"]}  # type: ignore[index]
    assert described[f"{MODULE}weight"]["dtype"] == "fp8-channel"
    assert described[f"{MODULE}weight"]["shape"] == [256, 320]


def test_the_experts_of_gpt_oss_are_found_and_decoded(
    tmp_path: Path, decoded: Callable[..., Tensor]
) -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(2)
    blocks = torch.randint(0, 256, (3, 8, 4, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(118, 130, (3, 8, 4), dtype=torch.uint8, generator=generator)
    path = write(
        tmp_path,
        {"experts.gate_up_proj_blocks": blocks, "experts.gate_up_proj_scales": scales},
        {"quant_method": "mxfp4"},
    )
    found = decoded(open_checkpoint(path), f"{MODULE}experts.gate_up_proj")
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert torch.equal(found, expected.transpose(1, 2))


def test_nibbles_are_packed_as_the_specifications_have_them() -> None:
    # by hand, so that the encoders of these tests are no mirror of the decoders
    numbers = torch.arange(8).numpy()[None]
    assert words(numbers, 4).item() == 0x76543210
    assert words(numbers, 4, [0, 2, 4, 6, 1, 3, 5, 7]).item() == 0x75316420
    q, codes, absmax = four_bits(torch.tensor([-2.0, 2.0, 0.0, 2.0]), [-1.0, 0.0, 1.0], 4)
    assert (q.flatten().tolist(), codes.tolist(), absmax.tolist()) == (
        [0x02, 0x12],
        [0, 2, 1, 2],
        [2.0],
    )
