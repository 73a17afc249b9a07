"""compressed-tensors' weights: packed integers, signed bytes, and four-bit floats."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed.codebooks import E2M1
from airllm_rs.checkpoint.packed.fp8 import NOT_READ, no_zero_points
from airllm_rs.checkpoint.packed.gptq import is_trivial
from airllm_rs.checkpoint.packed.tensors import (
    common_step,
    require_divisible,
    require_dtype,
    require_shape,
)
from airllm_rs.checkpoint.stored import Layout, Repacking, StoredPart, StoredWeight
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.checkpoint.packed.tensors import Tensors
    from airllm_rs.checkpoint.stored import TensorInfo

_PACKED = ".weight_packed"
_FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


def find(tensors: Tensors, config: Mapping[str, object]) -> dict[str, StoredWeight]:
    """Return the weights that are packed so; eight-bit floats are found as those of others are."""
    del config
    found: dict[str, StoredWeight] = {}
    for name in tensors.names:
        if name.endswith(_PACKED):
            module = name.removesuffix(_PACKED)
            is_float = tensors.info(name).dtype == "U8"
            weight = (
                _four_bit_float(tensors, module, name) if is_float else _packed(tensors, module)
            )
            found[weight.name] = weight
        elif name.endswith(".weight") and f"{name}_scale" in tensors:
            info = tensors.info(name)
            if info.dtype == "I8":
                found[name] = _int8(tensors, name, info)
            elif info.dtype == "U8" and f"{name}_scale_2" in tensors:
                module = name.removesuffix(".weight")
                found[name] = _four_bit_float(tensors, module, name)
    return found


def _packed(tensors: Tensors, module: str) -> StoredWeight:
    """Return a weight of unsigned integers in words, the lowest first."""
    name, q_name = f"{module}.weight", module + _PACKED
    q, scale = tensors.info(q_name), tensors.part(name, "_scale")
    require_dtype(q_name, q.dtype, "I32")
    shape = _shape(tensors, f"{name}_shape")
    rows, cols = shape
    if len(q.shape) != 2 or q.shape[0] != rows or not q.shape[1]:
        raise CheckpointError(f"{q_name} has shape {list(q.shape)}, expected {rows} rows")
    bits = next((bits for bits in (4, 8) if -(-cols * bits // 32) == q.shape[1]), None)
    if bits is None:
        raise UnsupportedModelError(
            f"{name} is packed by compressed-tensors with {32 * q.shape[1] / cols:.3g} bits, which "
            "cannot be read; can be: 4, 8"
        )
    if cols * bits % 32:
        raise UnsupportedModelError(f"{name}: {cols} columns of {bits} bits do not fill words")
    groups = _groups(f"{name}_scale", scale, rows)
    group = require_divisible(name, shape, groups)
    require_dtype(f"{name}_scale", scale.dtype, *_FLOATS)
    parts = [
        StoredPart("q", q_name, q),
        StoredPart("scale", f"{name}_scale", scale._replace(shape=(rows, groups))),
    ]
    zero: object = {"fixed": 1 << (bits - 1)}
    zeros_name = f"{name}_zero_point"
    if zeros_name in tensors:
        zeros, per_word = tensors.info(zeros_name), 32 // bits
        require_dtype(zeros_name, zeros.dtype, "I32")
        require_shape(zeros_name, zeros.shape, (-(-rows // per_word), groups))
        repacking = Repacking("compressed_tensors_zeros", groups, bits, 8)
        parts.append(StoredPart("zero", zeros_name, zeros, per_word, repacking))
        zero = "u8"
    aside = [f"{name}_shape", *(f"{module}.{other}" for other in NOT_READ)]
    index = f"{name}_g_idx"
    is_scattered = index in tensors and not is_trivial(tensors, index, cols, group)
    if is_scattered:
        parts.append(StoredPart("group", index, tensors.info(index), 0))
    else:
        aside.append(index)
    options = {
        "bits": bits,
        "group": group,
        "scale": scale.dtype,
        "zero": zero,
        "has_group_index": is_scattered,
    }
    # the index is of columns: any rows can be cut off
    step = common_step(part for part in parts if part.role != "group")
    return StoredWeight(
        name,
        shape,
        tuple(parts),
        Layout("affine", options, f"int{bits}-packed"),
        row_step=step,
        aside=tensors.found(*aside),
    )


def _four_bit_float(tensors: Tensors, module: str, q_name: str) -> StoredWeight:
    """Return a weight of NVFP4 (compressed-tensors' or ModelOpt's) or MXFP4."""
    name = f"{module}.weight"
    q, scale = tensors.info(q_name), tensors.part(name, "_scale")
    if len(q.shape) != 2 or not all(q.shape):
        raise CheckpointError(f"{q_name} has shape {list(q.shape)}, expected a matrix")
    rows, cols = q.shape[0], 2 * q.shape[1]
    shape = rows, cols
    parts = [StoredPart("q", q_name, q)]
    options: dict[str, object] = {"codebook": E2M1, "low_first": True, "global_divides": False}
    if scale.dtype == "F8_E4M3":
        block, label = 16, "nvfp4"
        multiplies = f"{name}_scale_2"
        factor = multiplies if multiplies in tensors else f"{name}_global_scale"
        info = tensors.part(factor, "")
        require_dtype(factor, info.dtype, "F32")
        if info.nbytes != 4:
            raise CheckpointError(f"{factor} has shape {list(info.shape)}, expected one number")
        row = StoredPart("row", factor, info._replace(shape=(1,)), 0)
        options |= {"scale": "e4m3_global", "global_divides": factor != multiplies}
    else:
        require_dtype(f"{name}_scale", scale.dtype, "U8", "F8_E8M0")
        block, label = 32, "mxfp4"
        row = None
        options |= {"scale": "e8m0"}
    if cols % block:
        raise UnsupportedModelError(f"{name}: {cols} columns do not divide into blocks of {block}")
    require_shape(f"{name}_scale", scale.shape, (rows, cols // block))
    parts.append(StoredPart("scale", f"{name}_scale", scale))
    if row is not None:
        parts.append(row)
    return StoredWeight(
        name,
        shape,
        tuple(parts),
        Layout("lut4", {**options, "block": block}, label),
        aside=tensors.found(f"{name}_shape", *(f"{module}.{other}" for other in NOT_READ)),
    )


def _int8(tensors: Tensors, name: str, q: TensorInfo) -> StoredWeight:
    scale_name = f"{name}_scale"
    scale = tensors.info(scale_name)
    if len(q.shape) != 2 or not all(q.shape):
        raise CheckpointError(f"{name} has shape {list(q.shape)}, expected a matrix")
    zeros = no_zero_points(tensors, name)
    require_dtype(scale_name, scale.dtype, *_FLOATS)
    rows, cols = q.shape
    groups = _groups(scale_name, scale, rows)
    parts = (
        StoredPart("q", name, q),
        StoredPart("scale", scale_name, scale._replace(shape=(rows, groups))),
    )
    options = {
        "block": require_divisible(name, (rows, cols), groups),
        "scale": _FLOATS[scale.dtype],
    }
    module = name.removesuffix(".weight")
    aside = (*zeros, *tensors.found(*(f"{module}.{other}" for other in NOT_READ)))
    return StoredWeight(name, q.shape, parts, Layout("int8", options, "int8"), aside=aside)


def _groups(name: str, scale: TensorInfo, rows: int) -> int:
    """Return the scales of a row."""
    if scale.shape in ((), (1,), (1, 1)) and rows > 1:
        raise UnsupportedModelError(
            f"{name} is one scale for a whole matrix of integers, which cannot be read; "
            "can be: one per row or group"
        )
    if scale.shape == (rows,):
        return 1
    if len(scale.shape) != 2 or scale.shape[0] != rows or not scale.shape[1]:
        raise CheckpointError(f"{name} has shape {list(scale.shape)}, expected {rows} rows")
    return scale.shape[1]


def _shape(tensors: Tensors, name: str) -> tuple[int, int]:
    """Read the shape of a weight whose words may be padded."""
    if name not in tensors:
        raise CheckpointError(f"{name.removesuffix('_shape')} is packed, and lacks {name}")
    info = tensors.info(name)
    codes = {"I64": "q", "I32": "i"}
    require_dtype(name, info.dtype, *codes)
    require_shape(name, info.shape, (2,))
    rows, cols = struct.unpack(f"<2{codes[info.dtype]}", tensors.content(name))
    if not (0 < rows < 1 << 40 and 0 < cols < 1 << 40):
        raise CheckpointError(f"{name} says [{rows}, {cols}]")
    return rows, cols
