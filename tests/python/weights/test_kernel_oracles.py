"""Packed weights decode to what the packages of their formats decode them to, to the bit."""

import json
from collections.abc import Mapping

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from airllm_rs import _core

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

GGML_TYPES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "MXFP4",
]  # fmt: skip

FP8 = {False: torch.float8_e4m3fn, True: torch.float8_e5m2}


def decode(
    kind: str,
    options: object,
    shape: tuple[int, int],
    parts: Mapping[str, np.ndarray],
    dtype: str,
) -> Tensor:
    layout = _core.Layout(json.dumps({"kind": kind, "options": options}))
    held = {name: (np.ascontiguousarray(part).view(np.uint8), 0) for name, part in parts.items()}
    weight = _core.Weight(layout, *shape, **held)  # type: ignore[arg-type]
    out = torch.zeros(shape, dtype=DTYPES[dtype])
    _core.dequantize_into(weight, out.view(torch.uint8).numpy(), dtype)
    return out


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    """Compare bits, any NaN with any."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    integer = torch.int32 if found.dtype == torch.float32 else torch.int16
    same = (found.view(integer) == expected.view(integer)) | (found.isnan() & expected.isnan())
    assert same.all(), f"differs first at {(~same).nonzero()[0].tolist()}"


def as_bytes(tensor: Tensor) -> np.ndarray:
    bits: np.ndarray = tensor.contiguous().view(torch.uint8).numpy()
    return bits


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GGML_TYPES)
def test_blocks_of_any_bytes_decode_as_gguf_decodes_them(
    name: str, dtype: str, random: np.random.Generator
) -> None:
    kind = gguf.GGMLQuantizationType[name]
    block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    rows, cols = 37, 3 * max(block, 256)
    packed = random.integers(0, 256, (rows, cols // block * nbytes), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = torch.from_numpy(gguf.quants.dequantize(packed, kind))
    found = decode("ggml", name, (rows, cols), {"q": packed}, dtype)
    assert_same_bits(found, expected.to(DTYPES[dtype]))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_what_gguf_encodes_decodes_close_to_what_it_was(
    name: str, random: np.random.Generator
) -> None:
    kind = gguf.GGMLQuantizationType[name]
    numbers = random.standard_normal((16, 512), np.float32)
    packed = gguf.quants.quantize(numbers, kind)
    found = decode("ggml", name, (16, 512), {"q": packed}, "F32")
    assert_same_bits(found, torch.from_numpy(gguf.quants.dequantize(packed, kind)))
    error = (found - torch.from_numpy(numbers)).square().mean().item()
    assert error < 0.02


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_e5m2", FP8)
@pytest.mark.parametrize("scale", ["f32", "f16", "bf16", "e8m0"])
def test_eight_bit_floats_decode_as_torch_converts_them(
    scale: str, is_e5m2: bool, dtype: str, random: np.random.Generator
) -> None:
    rows, cols, block = 70, 333, (32, 128)
    q = random.integers(0, 256, (rows, cols), np.uint8)
    q[0, :256] = np.arange(256)
    grid = (-(-rows // block[0]), -(-cols // block[1]))
    made_of = {
        "f32": torch.float32,
        "f16": torch.float16,
        "bf16": torch.bfloat16,
        "e8m0": torch.float8_e8m0fnu,
    }[scale]
    numbers = torch.from_numpy(random.lognormal(-6, 3, grid).astype(np.float32))
    scales = numbers.to(made_of)
    spread = scales.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    values = torch.from_numpy(q).view(FP8[is_e5m2]).float()
    expected = (values * spread[:rows, :cols]).to(DTYPES[dtype])
    options = {
        "is_e5m2": is_e5m2,
        "block_rows": block[0],
        "block_cols": block[1],
        "scale": scale,
    }
    parts = {"q": q, "scale": as_bytes(scales)}
    assert_same_bits(decode("fp8", options, (rows, cols), parts, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_eight_bit_floats_decode_as_transformers_decodes_them(
    dtype: str, random: np.random.Generator
) -> None:
    rows, cols = 256, 384
    q = torch.from_numpy(random.integers(0, 256, (rows, cols), np.uint8)).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(random.lognormal(-6, 2, (2, 3)).astype(np.float32))
    dequantize = Fp8Dequantize(None)  # type: ignore[no-untyped-call]
    expected = dequantize._dequantize_one(q, scales, output_dtype=DTYPES[dtype])
    options = {"is_e5m2": False, "block_rows": 128, "block_cols": 128, "scale": "f32"}
    parts = {"q": as_bytes(q), "scale": as_bytes(scales)}
    assert_same_bits(decode("fp8", options, (rows, cols), parts, dtype), expected)


@pytest.mark.parametrize("kind", ["U8", "E8M0"])
def test_microscaled_floats_decode_as_transformers_decodes_them(
    kind: str, random: np.random.Generator
) -> None:
    rows, cols = 5, 96
    q = torch.from_numpy(random.integers(0, 256, (rows, cols), np.uint8)).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(random.integers(90, 150, (rows, cols // 32), np.uint8))
    given = scales if kind == "U8" else scales.view(torch.float8_e8m0fnu)
    dequantize = Fp8Dequantize(None)  # type: ignore[no-untyped-call]
    expected = dequantize._dequantize_one(q, given, output_dtype=torch.bfloat16)
    options = {"is_e5m2": False, "block_rows": 1, "block_cols": 32, "scale": "e8m0"}
    parts = {"q": as_bytes(q), "scale": as_bytes(scales)}
    assert_same_bits(decode("fp8", options, (rows, cols), parts, "BF16"), expected)


def packed_nibbles(codes: np.ndarray) -> np.ndarray:
    packed: np.ndarray = codes[:, ::2] | codes[:, 1::2] << 4
    return packed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_scattered", [False, True])
def test_integers_with_zero_points_decode_by_the_formula_of_gptq_and_awq(
    is_scattered: bool, bits: int, dtype: str, random: np.random.Generator
) -> None:
    # No decoder of GPTQ or AWQ runs without a GPU or a C++ extension: `scale * (q - zero)` in f32,
    # written out here from the formats' definitions.
    rows, cols, group = 9, 320, 128
    groups = -(-cols // group)
    codes = random.integers(0, 1 << bits, (rows, cols), np.uint8)
    zeros = random.integers(0, 1 << bits, (rows, groups), np.uint8)
    scales = random.lognormal(-5, 1, (rows, groups)).astype(np.float16)
    index = np.arange(cols, dtype=np.uint32) // group
    if is_scattered:
        random.shuffle(index)
    centred = codes.astype(np.int32) - zeros[:, index].astype(np.int32)
    expected = torch.from_numpy(scales[:, index].astype(np.float32) * centred.astype(np.float32))
    options = {
        "bits": bits,
        "group": group,
        "scale": "F16",
        "zero": "u8",
        "has_group_index": is_scattered,
    }
    parts = {"q": packed_nibbles(codes) if bits == 4 else codes, "scale": scales, "zero": zeros}
    if is_scattered:
        parts["group"] = index
    found = decode("affine", options, (rows, cols), parts, dtype)
    assert_same_bits(found, expected.to(DTYPES[dtype]))


def test_what_compressed_tensors_packs_decodes_as_it_unpacks_it(
    random: np.random.Generator,
) -> None:
    packing = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    rows, cols, group = 24, 256, 64
    codes = torch.from_numpy(random.integers(-8, 8, (rows, cols), np.int8))
    scales = torch.from_numpy(random.lognormal(-5, 1, (rows, 4)).astype(np.float32)).bfloat16()
    packed = packing.pack_to_int32(codes, 4)
    unpacked = packing.unpack_from_int32(packed, 4, torch.Size((rows, cols)))
    expected = unpacked.float() * scales.float().repeat_interleave(group, 1)
    options = {
        "bits": 4,
        "group": group,
        "scale": "BF16",
        "zero": {"fixed": 8},
        "has_group_index": False,
    }
    parts = {"q": as_bytes(packed), "scale": as_bytes(scales)}
    assert_same_bits(decode("affine", options, (rows, cols), parts, "F32"), expected)
