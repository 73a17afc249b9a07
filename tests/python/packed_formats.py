"""Encoders of the formats that checkpoints are quantised in, written from their specifications.

Each returns the tensors of a module and the float32 weight that the format says they mean. They
share no code with the package: numbers are packed item by item in the order that the format has.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Encoded = tuple[dict[str, Tensor], Tensor]

NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip
FP4 = [sign * value / 12 for sign in (1, -1) for value in (0, 0.0625, 8, 12, 4, 6, 2, 3)]
E2M1 = [sign * value for sign in (1, -1) for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6)]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def fp8(weight: Tensor, *, block: tuple[int, int] = (128, 128), e5m2: bool = False) -> Encoded:
    """Blocks of eight-bit floats, those at the edges cut off (DeepSeek-V3)."""
    rows, cols = weight.shape
    dtype = torch.float8_e5m2 if e5m2 else torch.float8_e4m3fn
    grid = torch.zeros(-(-rows // block[0]), -(-cols // block[1]))
    q = torch.zeros(rows, cols, dtype=dtype)
    decoded = torch.zeros(rows, cols)
    for i in range(grid.shape[0]):
        for j in range(grid.shape[1]):
            at = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            grid[i, j] = weight[at].abs().max() / 400
            q[at] = (weight[at] / grid[i, j]).to(dtype)
            decoded[at] = q[at].float() * grid[i, j]
    return {"weight": q, "weight_scale_inv": grid}, decoded


def fp8_tensor(weight: Tensor) -> Encoded:
    """One scale for all, and one of activations, which weight-only arithmetic has no use for."""
    scale = (weight.abs().max() / 400).bfloat16()
    q = (weight / scale.float()).to(torch.float8_e4m3fn)
    tensors = {"weight": q, "weight_scale": scale, "input_scale": torch.ones(())}
    return tensors, q.float() * scale.float()


def fp8_channel(weight: Tensor) -> Encoded:
    """One scale per row (compressed-tensors' float-quantized)."""
    scale = (weight.abs().amax(1, keepdim=True) / 400).bfloat16()
    q = (weight / scale.float()).to(torch.float8_e4m3fn)
    return {"weight": q, "weight_scale": scale}, q.float() * scale.float()


def integers(
    weight: Tensor, bits: int, group: int, *, symmetric: bool, index: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]:
    """Return q (N, K), zero points (N, G), scales (N, G) in float16, and what they mean."""
    rows, cols = weight.shape
    index = np.arange(cols) // group if index is None else index
    groups = -(-cols // group)
    w = weight.numpy()
    scale = np.zeros((rows, groups), np.float16)
    zero = np.full((rows, groups), 1 << (bits - 1), np.int64)
    most = (1 << bits) - 1
    for g in range(groups):
        part = w[:, index == g]
        if symmetric:
            scale[:, g] = np.abs(part).max(1) / (1 << (bits - 1))
        else:
            scale[:, g] = (part.max(1) - part.min(1)) / most
            zero[:, g] = np.clip(np.round(-part.min(1) / scale[:, g].astype(np.float32)), 1, most)
    spread = scale[:, index].astype(np.float32)
    q = np.clip(np.round(w / spread) + zero[:, index], 0, most).astype(np.int64)
    decoded = spread * (q - zero[:, index]).astype(np.float32)
    return q, zero, scale, torch.from_numpy(decoded)


def words(numbers: np.ndarray, bits: int, order: list[int] | None = None) -> Tensor:
    """Pack along the last dimension, the lowest bits first, in an order of each word's numbers."""
    per_word = 32 // bits
    pad = -numbers.shape[-1] % per_word
    padded = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, pad)])
    grouped = padded.reshape(*padded.shape[:-1], -1, per_word)
    if order is not None:
        grouped = grouped[..., order]
    packed = np.zeros(grouped.shape[:-1], np.uint32)
    for place in range(per_word):
        packed |= grouped[..., place].astype(np.uint32) << np.uint32(place * bits)
    return torch.from_numpy(packed.view(np.int32).copy())


def gptq(
    weight: Tensor, *, bits: int = 4, group: int = 64, v2: bool = False, desc_act: bool = False
) -> Encoded:
    """GPTQ: rows of words along K; version 1 stores zero points less one."""
    cols = weight.shape[1]
    index = np.arange(cols) // group
    if desc_act:
        index = np.random.default_rng(5).permutation(index)
    q, zero, scale, decoded = integers(weight, bits, group, symmetric=False, index=index)
    stored = zero if v2 else zero - 1
    return {
        "qweight": words(q, bits).T.contiguous(),
        "qzeros": words(stored.T, bits),
        "scales": torch.from_numpy(scale.T.copy()),
        "g_idx": torch.from_numpy(index.astype(np.int32)),
    }, decoded


def awq(weight: Tensor, *, group: int = 64) -> Encoded:
    """AWQ's GEMM packing: words along N in its own order."""
    q, zero, scale, decoded = integers(weight, 4, group, symmetric=False)
    return {
        "qweight": words(q.T, 4, AWQ_ORDER),
        "qzeros": words(zero.T, 4, AWQ_ORDER),
        "scales": torch.from_numpy(scale.T.copy()),
    }, decoded


def packed(
    weight: Tensor, *, bits: int = 4, group: int | None = 64, symmetric: bool = True,
    actorder: bool = False,
) -> Encoded:  # fmt: skip
    """compressed-tensors' pack-quantized; without a group one scale per row."""
    rows, cols = weight.shape
    group = group or cols
    index = np.arange(cols) // group
    if actorder:
        index = np.random.default_rng(6).permutation(index)
    q, zero, scale, decoded = integers(weight, bits, group, symmetric=symmetric, index=index)
    tensors = {
        "weight_packed": words(q, bits),
        "weight_scale": torch.from_numpy(scale),
        "weight_shape": torch.tensor([rows, cols]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(zero.T, bits).T.contiguous()
    if actorder:
        tensors["weight_g_idx"] = torch.from_numpy(index.astype(np.int32))
    return tensors, decoded


def int8(weight: Tensor) -> Encoded:
    """compressed-tensors' int-quantized, one scale per row."""
    scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
    q = (weight / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return {"weight": q, "weight_scale": scale}, q.float() * scale.float()


def nearest(numbers: Tensor, table: list[float]) -> Tensor:
    """Return the indexes of the values of a table that are nearest."""
    values = torch.tensor(table)
    return (numbers.unsqueeze(-1) - values).abs().argmin(-1)


def nvfp4(weight: Tensor, *, divides: bool = True) -> Encoded:
    """NVFP4 of compressed-tensors, or of ModelOpt, whose global scale multiplies."""
    rows, cols = weight.shape
    blocks = weight.view(rows, cols // 16, 16)
    factor = torch.tensor([weight.abs().max() / (6 * 448)])
    scale = (blocks.abs().amax(2) / 6 / factor).to(torch.float8_e4m3fn)
    inverse = 1 / factor
    effective = scale.float() / inverse if divides else scale.float() * factor
    codes = nearest(blocks / effective.unsqueeze(2), E2M1).view(rows, cols)
    decoded = torch.tensor(E2M1)[codes].view_as(blocks) * effective.unsqueeze(2)
    q = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
    if divides:
        tensors = {"weight_packed": q, "weight_scale": scale, "weight_global_scale": inverse}
    else:
        tensors = {"weight": q, "weight_scale": scale, "weight_scale_2": factor.view(())}
    return tensors, decoded.view(rows, cols)


def mxfp4(weight: Tensor) -> Encoded:
    """MXFP4 of compressed-tensors."""
    rows, cols = weight.shape
    blocks = weight.view(rows, cols // 32, 32)
    exponent = (blocks.abs().amax(2) / 6).log2().ceil()
    effective = exponent.exp2().unsqueeze(2)
    codes = nearest(blocks / effective, E2M1).view(rows, cols)
    q = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
    decoded = (torch.tensor(E2M1)[codes].view_as(blocks) * effective).view(rows, cols)
    return {"weight_packed": q, "weight_scale": (exponent + 127).to(torch.uint8)}, decoded


def four_bits(weight: Tensor, table: list[float], block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return packed codes (n / 2, 1), codes, and absmax of the blocks of the flattened tensor."""
    flat = weight.flatten()
    padded = torch.cat([flat, flat.new_zeros(-len(flat) % block)]).view(-1, block)
    absmax = padded.abs().amax(1)
    codes = nearest(padded / absmax.unsqueeze(1), table).flatten()[: len(flat)]
    return (codes[::2] << 4 | codes[1::2]).to(torch.uint8).unsqueeze(1), codes, absmax


def bnb4(weight: Tensor, *, kind: str = "nf4", block: int = 64, nested: bool = False) -> Encoded:
    """Bitsandbytes' four bits, as `QuantState.as_dict(packed=True)` names the parts."""
    table = NF4 if kind == "nf4" else FP4
    q, codes, absmax = four_bits(weight, table, block)
    state: dict[str, object] = {
        "quant_type": kind, "blocksize": block, "dtype": "float32", "shape": list(weight.shape)
    }  # fmt: skip
    tensors = {"weight": q, "weight.quant_map": torch.tensor(table)}
    if nested:
        offset = float(absmax.mean())
        code = torch.linspace(-1, 1, 256)
        centred = absmax - offset
        padded = torch.cat([centred, centred.new_zeros(-len(centred) % 256)]).view(-1, 256)
        outer = padded.abs().amax(1)
        inner = nearest(padded / outer.unsqueeze(1), code.tolist()).flatten()[: len(absmax)]
        absmax = code[inner] * outer.repeat_interleave(256)[: len(absmax)] + offset
        tensors |= {
            "weight.absmax": inner.to(torch.uint8),
            "weight.nested_absmax": outer,
            "weight.nested_quant_map": code,
        }
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    else:
        tensors["weight.absmax"] = absmax
    name = f"weight.quant_state.bitsandbytes__{kind}"
    tensors[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    scales = absmax.repeat_interleave(block)[: len(codes)]
    return tensors, (torch.tensor(table)[codes] * scales).view(weight.shape)


def bnb8(weight: Tensor) -> Encoded:
    """LLM.int8(), as `Linear8bitLt` saves it."""
    scb = weight.abs().amax(1)
    q = (weight / scb.unsqueeze(1) * 127).round().to(torch.int8)
    tensors = {"weight": q, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return tensors, q.float() * scb.unsqueeze(1) / 127


def airllm4(weight: Tensor) -> Encoded:
    """A tensor of any shape as AirLLM's splits have it; the key "" is the tensor's own."""
    q, codes, absmax = four_bits(weight, NF4, 64)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": list(weight.shape)}
    tensors = {
        "": q,
        ".4bit.absmax": absmax,
        ".4bit.quant_map": torch.tensor(NF4),
        ".4bit.quant_state.bitsandbytes__nf4": torch.tensor(
            list(json.dumps(state).encode()), dtype=torch.uint8
        ),
    }
    scales = absmax.repeat_interleave(64)[: len(codes)]
    return tensors, (torch.tensor(NF4)[codes] * scales).view(weight.shape)


def airllm8(weight: Tensor) -> Encoded:
    """The same with bytes into a table, any one: the table comes with the tensor."""
    flat = weight.flatten()
    table = torch.linspace(-1, 1, 256) ** 3
    padded = torch.cat([flat, flat.new_zeros(-len(flat) % 2048)]).view(-1, 2048)
    absmax = padded.abs().amax(1)
    codes = nearest(padded / absmax.unsqueeze(1), table.tolist()).flatten()[: len(flat)]
    decoded = table[codes] * absmax.repeat_interleave(2048)[: len(codes)]
    q = codes.to(torch.uint8).view(weight.shape)
    return {"": q, ".8bit.absmax": absmax, ".8bit.code": table}, decoded.view(weight.shape)


def _ct(kind: str, bits: int = 4) -> dict[str, object]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int"}}
    return {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"0": group}}


_GPTQ: dict[str, object] = {"quant_method": "gptq", "bits": 4, "group_size": 64}
_BNB: dict[str, object] = {"quant_method": "bitsandbytes", "load_in_4bit": True}

FORMATS: dict[str, tuple[dict[str, object], Callable[[Tensor], Encoded], str]] = {
    "fp8 blocks": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, fp8, "fp8-128x128"),
    "fp8 e5m2": ({"quant_method": "fp8"}, lambda w: fp8(w, e5m2=True), "fp8-128x128"),
    "fp8 tensor": ({"quant_method": "fp8"}, fp8_tensor, "fp8"),
    "fp8 channel": (_ct("float-quantized", 8), fp8_channel, "fp8-channel"),
    "gptq": (_GPTQ, gptq, "gptq-4bit"),
    "gptq v2": ({**_GPTQ, "checkpoint_format": "gptq_v2"}, lambda w: gptq(w, v2=True), "gptq-4bit"),
    "gptq desc_act": (
        {**_GPTQ, "desc_act": True}, lambda w: gptq(w, desc_act=True), "gptq-4bit"
    ),
    "gptq 8 bit": ({**_GPTQ, "bits": 8}, lambda w: gptq(w, bits=8), "gptq-8bit"),
    "auto-round": (
        {**_GPTQ, "quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"},
        gptq, "gptq-4bit",
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, awq, "awq-4bit"),
    "packed": (_ct("pack-quantized"), packed, "int4-packed"),
    "packed asymmetric": (
        _ct("pack-quantized"), lambda w: packed(w, symmetric=False), "int4-packed"
    ),
    "packed actorder": (
        _ct("pack-quantized"), lambda w: packed(w, symmetric=False, actorder=True), "int4-packed"
    ),
    "packed 8 bit, channel": (
        _ct("pack-quantized", 8), lambda w: packed(w, bits=8, group=None), "int8-packed"
    ),
    "int8": (_ct("int-quantized", 8), int8, "int8"),
    "nvfp4": (_ct("nvfp4-pack-quantized"), nvfp4, "nvfp4"),
    "modelopt nvfp4": (
        {"quant_method": "modelopt"}, lambda w: nvfp4(w, divides=False), "nvfp4"
    ),
    "mxfp4": (_ct("mxfp4-pack-quantized"), mxfp4, "mxfp4"),
    "bnb nf4": (_BNB, bnb4, "bnb-nf4"),
    "bnb nf4 nested": (_BNB, lambda w: bnb4(w, nested=True), "bnb-nf4"),
    "bnb fp4, odd blocks": (_BNB, lambda w: bnb4(w, kind="fp4", block=512), "bnb-fp4"),
    "bnb int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, bnb8, "bnb-int8"),
}  # fmt: skip
"""quantization_config, encoder, and what the scheme is called, by name."""
