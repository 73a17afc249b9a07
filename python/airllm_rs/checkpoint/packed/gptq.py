"""GPTQ's and AWQ's weights, those of auto-round among them: ``qweight``, ``qzeros``, ``scales``."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed.methods import packing_of, quantization_of
from airllm_rs.checkpoint.packed.tensors import require_dtype, require_shape
from airllm_rs.checkpoint.stored import Layout, Repacking, StoredPart, StoredWeight
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.checkpoint.packed.tensors import Tensors

_SUFFIX = ".qweight"
_FLOATS = ("F16", "BF16")


def find(tensors: Tensors, config: Mapping[str, object]) -> dict[str, StoredWeight]:
    """Return the weights that are packed so."""
    settings = quantization_of(config)
    weights = (
        _weight(tensors, name.removesuffix(_SUFFIX), settings)
        for name in tensors.names
        if name.endswith(_SUFFIX)
    )
    return {weight.name: weight for weight in weights}


def _weight(tensors: Tensors, module: str, settings: Mapping[str, object]) -> StoredWeight:
    name = f"{module}.weight"
    q, zeros = tensors.info(module + _SUFFIX), tensors.part(module, ".qzeros")
    scales = tensors.part(module, ".scales")
    for suffix, info in ((_SUFFIX, q), (".qzeros", zeros), (".scales", scales)):
        if len(info.shape) != 2 or not all(info.shape):
            raise CheckpointError(f"{module}{suffix} has shape {list(info.shape)}, expected two")
    require_dtype(module + _SUFFIX, q.dtype, "I32")
    require_dtype(f"{module}.qzeros", zeros.dtype, "I32")
    require_dtype(f"{module}.scales", scales.dtype, *_FLOATS)
    groups, rows = scales.shape
    bits = 32 * zeros.shape[1] // rows
    is_awq = q.shape[1] != rows
    if bits not in ((4,) if is_awq else (4, 8)):
        method, known = ("AWQ", "4") if is_awq else ("GPTQ", "4, 8")
        raise UnsupportedModelError(
            f"{name} is packed as {method} with {bits} bits, which cannot be read; can be: {known}"
        )
    require_shape(f"{module}.qzeros", zeros.shape, (groups, rows * bits // 32))
    if is_awq:
        cols = q.shape[0]
        require_shape(module + _SUFFIX, q.shape, (cols, rows * bits // 32))
    else:
        cols = q.shape[0] * 32 // bits
    if rows % (32 // bits) or cols % (32 // bits):
        raise CheckpointError(f"{name}: {rows} x {cols} integers of {bits} bits fill no words")
    group = _group(name, cols, groups, settings)
    packing = packing_of(settings)
    kind = "awq" if is_awq else "gptq"
    # v2 stores zero points as they are, v1 one less
    zeros_kind = "gptq_v2_zeros" if packing == "gptq_v2" and not is_awq else f"{kind}_zeros"
    parts = [
        StoredPart("q", module + _SUFFIX, q, 0, Repacking(kind, cols, bits, bits)),
        StoredPart("zero", f"{module}.qzeros", zeros, 0, Repacking(zeros_kind, groups, bits, 8)),
        StoredPart("scale", f"{module}.scales", scales, 0, Repacking("transposed", groups, 16, 16)),
    ]
    aside: tuple[str, ...] = ()
    index = f"{module}.g_idx"
    is_scattered = index in tensors and not is_trivial(tensors, index, cols, group)
    if is_scattered:
        parts.append(StoredPart("group", index, tensors.info(index), 0))
    elif index in tensors:
        aside = (index,)
    options = {
        "bits": bits,
        "group": group,
        "scale": scales.dtype,
        "zero": "u8",
        "has_group_index": is_scattered,
    }
    layout = Layout("affine", options, f"{kind}-{bits}bit")
    return StoredWeight(name, (rows, cols), tuple(parts), layout, row_step=0, aside=aside)


def is_trivial(tensors: Tensors, name: str, cols: int, group: int) -> bool:
    """Tell whether the groups of columns are what they are without an index.

    So they are where an index was made and never filled: GPTQ-for-LLaMa left zeros there, and
    compressed-tensors leaves -1.

    Raises:
        CheckpointError: if it has not one number for each column.
    """
    info = tensors.info(name)
    require_dtype(name, info.dtype, "I32")
    require_shape(name, info.shape, (cols,))
    index = struct.unpack(f"<{cols}i", tensors.content(name))
    if set(index) in ({0}, {-1}):
        return True
    if min(index) < 0 or max(index) > (cols - 1) // group:
        raise CheckpointError(f"{name} names groups that do not exist")
    return all(found == col // group for col, found in enumerate(index))


def _group(name: str, cols: int, groups: int, settings: Mapping[str, object]) -> int:
    """Return how many columns share a scale; the last group may have fewer."""
    size = settings.get("group_size", settings.get("q_group_size"))
    if type(size) is int and size > 0 and -(-cols // size) == groups:
        return size
    if cols % groups:
        raise CheckpointError(
            f"{name} has scales of {groups} groups, and {cols} columns do not divide into them; "
            f"config.json says group_size {size!r}"
        )
    return cols // groups
