"""What the packages of the formats write is read as they read it; skipped without them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from airllm_rs.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

CONFIG = {"model_type": "llama"}
MODULE = "model.layers.0.mlp.down_proj"


def write(path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, object]) -> Path:
    (path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": settings}))
    named = {f"{MODULE}.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(96, 320, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("block", [64, 128])
def test_four_bits_of_bitsandbytes(
    kind: str, nested: bool, block: int, weight: Tensor, tmp_path: Path,
    decoded: Callable[..., Tensor],
) -> None:  # fmt: skip
    functional = pytest.importorskip("bitsandbytes.functional")
    q, state = functional.quantize_4bit(
        weight, blocksize=block, compress_statistics=nested, quant_type=kind
    )
    parts = state.as_dict(packed=True)
    tensors = {"weight": q, **{f"weight.{name}": tensor for name, tensor in parts.items()}}
    path = write(tmp_path, tensors, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    found = decoded(open_checkpoint(path), f"{MODULE}.weight")
    # blocks run along the flattened tensor, as they were made; its CPU code (0.50.2) forgets that
    # where a row ends within a block, but not of a tensor of one row
    state.shape = torch.Size([1, weight.numel()])
    expected = functional.dequantize_4bit(q, state).view_as(weight)
    if kind == "nf4":
        assert torch.equal(found, expected)
    else:  # its CPU code has the values of FP4 rounded to four digits
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-3)


def test_eight_bits_of_bitsandbytes(
    weight: Tensor, tmp_path: Path, decoded: Callable[..., Tensor]
) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    q, scb, _ = functional.int8_vectorwise_quant(weight.half())
    tensors = {"weight": q, "SCB": scb.float(), "weight_format": torch.tensor(0, dtype=torch.uint8)}
    path = write(tmp_path, tensors, {"quant_method": "bitsandbytes", "load_in_8bit": True})
    found = decoded(open_checkpoint(path), f"{MODULE}.weight")
    # (q * SCB) / 127 there, q * (SCB / 127) here: a bit of float32 apart
    torch.testing.assert_close(found, functional.int8_vectorwise_dequant(q, scb), rtol=2e-7, atol=0)


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_what_airllm_writes_with_bitsandbytes(
    kind: str, weight: Tensor, tmp_path: Path, decoded: Callable[..., Tensor]
) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    if kind == "4bit":
        q, state = functional.quantize_nf4(weight, blocksize=64)
        parts = state.as_dict(packed=True)
        expected = functional.dequantize_nf4(q, state)
    else:
        q, state = functional.quantize_blockwise(weight, blocksize=2048)
        parts = {"absmax": state.absmax, "code": state.code}
        expected = (
            state.code[q.flatten().long()] * state.absmax.repeat_interleave(2048)[: q.numel()]
        )
        expected = expected.view_as(weight)
    tensors = {"weight": q, **{f"weight.{kind}.{name}": part for name, part in parts.items()}}
    named = {f"{MODULE}.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(named, tmp_path / "model.safetensors")
    assert torch.equal(decoded(open_checkpoint(tmp_path), f"{MODULE}.weight"), expected)


SCHEMES: dict[str, tuple[str, dict[str, object]]] = {
    "int4, groups": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 64}),
    "int4, zero points": (
        "pack-quantized",
        {"num_bits": 4, "strategy": "group", "group_size": 64, "symmetric": False},
    ),
    "int8, channels": ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
    "signed bytes": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
    "signed bytes, groups": (
        "int-quantized", {"num_bits": 8, "strategy": "group", "group_size": 64}
    ),
    "fp8": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "fp8, tensor": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    "fp8, groups": (
        "float-quantized", {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 64}
    ),
    "fp8, blocks": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 64]},
    ),
    "mxfp8": (
        "mxfp8-quantized",
        {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMES)
def test_what_compressed_tensors_compresses(
    name: str, weight: Tensor, tmp_path: Path, decoded: Callable[..., Tensor]
) -> None:
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    kind, arguments = SCHEMES[name]
    scheme = quantization.QuantizationScheme(
        targets=["Linear"], weights=quantization.QuantizationArgs(**arguments), format=kind
    )
    state = _calibrated(weight, arguments)
    compressor = compressors.BaseCompressor.get_value_from_registry(kind)
    compressed = compressor.compress(dict(state), scheme)
    expected = compressor.decompress(dict(compressed), scheme)["weight"].float()
    settings = {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": scheme.model_dump(mode="json")},
    }
    path = write(tmp_path, compressed, settings)
    found = decoded(open_checkpoint(path), f"{MODULE}.weight")
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-6)  # theirs is rounded to bf16
    assert torch.equal(found.bfloat16(), expected.bfloat16()) or name in ("nvfp4",)


def _calibrated(weight: Tensor, arguments: Mapping[str, object]) -> dict[str, Tensor]:
    """Return a weight with scales by its largest numbers, as a calibration would find them."""
    rows, cols = weight.shape
    state = {"weight": weight.bfloat16()}
    if arguments["strategy"] == "tensor":
        state["weight_scale"] = (weight.abs().max() / 448).bfloat16().view(1)
        return state
    if arguments["strategy"] == "block":
        high, wide = 32, 64
        assert arguments["block_structure"] == [high, wide]
        blocks = weight.view(rows // high, high, cols // wide, wide)
        state["weight_scale"] = (blocks.abs().amax((1, 3)) / 448).bfloat16()
        return state
    group = int(str(arguments.get("group_size", cols)))
    largest = weight.view(rows, cols // group, group).abs().amax(2)
    if arguments.get("type") != "float":
        most = (1 << (int(str(arguments["num_bits"])) - 1)) - 1
        state["weight_scale"] = (largest / most).bfloat16()
        if arguments.get("symmetric") is False:
            generator = torch.Generator().manual_seed(4)
            points = torch.randint(-8, 8, largest.shape, generator=generator)
            state["weight_zero_point"] = points.to(torch.int8)
    elif arguments["num_bits"] == 8 and group == 32:
        state["weight_scale"] = (largest / 448).log2().ceil().exp2()
    elif arguments["num_bits"] == 8:
        state["weight_scale"] = (largest / 448).bfloat16()
    elif group == 16:
        factor = 6 * 448 / weight.abs().max()
        state["weight_global_scale"] = factor.view(1)
        state["weight_scale"] = (largest / 6 * factor).to(torch.float8_e4m3fn).float()
    else:
        state["weight_scale"] = (largest / 6).log2().ceil().exp2()
    return state
