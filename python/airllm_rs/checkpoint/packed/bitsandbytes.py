"""bitsandbytes' weights: four bits with a table, or eight with a scale per row."""

from __future__ import annotations

import math
import struct
from math import prod
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed.tensors import (
    along,
    common_step,
    require_dtype,
    require_shape,
)
from airllm_rs.checkpoint.stored import Layout, StoredPart, StoredWeight
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.checkpoint.packed.tensors import Tensors

_KINDS = ("nf4", "fp4")
_STATE = "quant_state.bitsandbytes__"
_LARGEST_BLOCK = 1 << 20


def find(tensors: Tensors, config: Mapping[str, object]) -> dict[str, StoredWeight]:
    """Return the weights that bitsandbytes has packed, as transformers saves them."""
    del config
    found = {}
    for name in tensors.names:
        stem, _, kind = name.rpartition(f".{_STATE}")
        if stem.endswith(".weight"):
            found[stem] = four_bits(tensors, stem, stem, kind)
        elif name.endswith(".SCB"):
            weight = _int8(tensors, name)
            found[weight.name] = weight
    return found


def four_bits(
    tensors: Tensors, name: str, prefix: str, kind: str, label: str = "bnb"
) -> StoredWeight:
    """Return a weight of four bits.

    Args:
        tensors: The checkpoint.
        name: Of the weight, and of the tensor with its numbers.
        prefix: What the names of its other tensors begin with, without the dot.
        kind: ``nf4`` or ``fp4``.
        label: What the layout's name begins with.
    """
    if kind not in _KINDS:
        raise UnsupportedModelError(
            f"{name} is packed by bitsandbytes as {kind}, which cannot be read; "
            f"can be: {', '.join(_KINDS)}"
        )
    state = tensors.state(f"{prefix}.{_STATE}{kind}")
    shape, block = _shape(name, state), _block(name, state, "blocksize")
    matrix = prod(shape[:-1]), shape[-1]
    if matrix[1] % 2:
        raise UnsupportedModelError(f"{name} has {matrix[1]} columns; packed ones must be even")
    q = tensors.part(name, "")
    if q.nbytes != prod(shape) // 2:
        raise CheckpointError(f"{name} has {q.nbytes} bytes, expected {prod(shape) // 2}")
    q = q._replace(dtype="U8", shape=(matrix[0], matrix[1] // 2))
    absmax = tensors.part(prefix, ".absmax")
    seen, step = along(f"{prefix}.absmax", absmax, matrix, block)
    parts = [StoredPart("q", name, q), StoredPart("scale", f"{prefix}.absmax", seen, step)]
    constants: dict[str, bytes] = {}
    scale: object = "f32"
    nested = tensors.found(f"{prefix}.nested_absmax", f"{prefix}.nested_quant_map")
    if nested:
        require_dtype(f"{prefix}.absmax", absmax.dtype, "U8")
        outer = _block(name, state, "nested_blocksize")
        offset = state.get("nested_offset")
        if not isinstance(offset, int | float) or not math.isfinite(offset):
            raise CheckpointError(f"{name}: nested_offset is {offset!r}, expected a number")
        scale = {"nested": {"block": outer, "offset": float(offset)}}
        info = tensors.part(prefix, ".nested_absmax")
        require_dtype(f"{prefix}.nested_absmax", info.dtype, "F32")
        seen, step = along(f"{prefix}.nested_absmax", info, matrix, block * outer)
        parts.append(StoredPart("nested_scale", f"{prefix}.nested_absmax", seen, step))
        constants["nested_code"] = _table_bytes(tensors, prefix, ".nested_quant_map", 256)
    else:
        require_dtype(f"{prefix}.absmax", absmax.dtype, "F32")
    options = {
        "codebook": table(tensors, prefix, ".quant_map", 16),
        "block": block,
        "scale": scale,
        "low_first": False,
        "global_divides": False,
    }
    return StoredWeight(
        name,
        shape,
        tuple(parts),
        Layout("lut4", options, f"{label}-{kind}"),
        row_step=common_step(parts),
        constants=constants,
        aside=tensors.found(
            f"{prefix}.{_STATE}{kind}", f"{prefix}.quant_map", f"{prefix}.nested_quant_map"
        ),
    )


def table(tensors: Tensors, prefix: str, suffix: str, items: int) -> list[float]:
    """Return what codes mean, finite numbers.

    Raises:
        CheckpointError: if it is not so many.
    """
    numbers = list(struct.unpack(f"<{items}f", _table_bytes(tensors, prefix, suffix, items)))
    if not all(map(math.isfinite, numbers)):
        raise CheckpointError(f"{prefix}{suffix} has a number that is not finite")
    return numbers


def _table_bytes(tensors: Tensors, prefix: str, suffix: str, items: int) -> bytes:
    info = tensors.part(prefix, suffix)
    require_dtype(prefix + suffix, info.dtype, "F32")
    require_shape(prefix + suffix, info.shape, (items,))
    return tensors.content(prefix + suffix)


def _int8(tensors: Tensors, scale_name: str) -> StoredWeight:
    module = scale_name.removesuffix(".SCB")
    name = f"{module}.weight"
    q, scale = tensors.part(name, ""), tensors.info(scale_name)
    require_dtype(name, q.dtype, "I8")
    require_dtype(scale_name, scale.dtype, "F32")
    if len(q.shape) != 2:
        raise CheckpointError(f"{name} has shape {list(q.shape)}, expected a matrix")
    require_shape(scale_name, scale.shape, (q.shape[0],))
    order = f"{module}.weight_format"
    if order in tensors and any(tensors.content(order)):
        raise UnsupportedModelError(
            f"{name} is packed by bitsandbytes for a GPU ({order} is not 0), which cannot be read; "
            "save the model again with a current version"
        )
    return StoredWeight(
        name,
        q.shape,
        (StoredPart("q", name, q), StoredPart("scale", scale_name, scale)),
        Layout("int8", {"block": q.shape[1], "scale": "scb"}, "bnb-int8"),
        aside=tensors.found(order),
    )


def _shape(name: str, state: Mapping[str, object]) -> tuple[int, ...]:
    shape = state.get("shape")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 3
        or not all(type(length) is int and 0 < length < 1 << 40 for length in shape)
    ):
        raise CheckpointError(f"{name}: its quant_state has the shape {shape!r}")
    return tuple(shape)


def _block(name: str, state: Mapping[str, object], key: str) -> int:
    block = state.get(key)
    if type(block) is not int or not 0 < block <= _LARGEST_BLOCK or block % 2:
        raise CheckpointError(f"{name}: its quant_state has the {key} {block!r}")
    return block
