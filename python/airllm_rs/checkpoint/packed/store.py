"""The parts that this package's shard stores are made of: ``X.q``, ``X.scale``, ``X.row``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed.codebooks import NF4
from airllm_rs.checkpoint.packed.tensors import require_shape
from airllm_rs.checkpoint.stored import Layout, StoredPart, StoredWeight
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.checkpoint.packed.tensors import Tensors
    from airllm_rs.checkpoint.stored import TensorInfo

_SUFFIX = ".weight.q"
_4BIT = {32: "4bit", 16: "4bit-hq"}


def find(tensors: Tensors, config: Mapping[str, object]) -> dict[str, StoredWeight]:
    """Return the weights that are packed so. docs/format.md describes the parts."""
    del config
    return {
        weight.name: weight
        for weight in (_weight(tensors, name) for name in tensors.names if name.endswith(_SUFFIX))
    }


def _weight(tensors: Tensors, q_name: str) -> StoredWeight:
    name = q_name.removesuffix(".q")
    q, scale = tensors.info(q_name), tensors.part(name, ".scale")
    row = tensors.part(name, ".row")
    dtypes = (q.dtype, scale.dtype, row.dtype)
    if len(q.shape) != 2 or len(scale.shape) != 2 or not scale.shape[1]:
        raise CheckpointError(f"{q_name} and its scales have no two dimensions")
    rows, cols = q.shape[0], q.shape[1] * (2 if q.dtype == "U8" else 1)
    block = cols // scale.shape[1]
    require_shape(f"{name}.scale", scale.shape, (rows, cols // max(block, 1)))
    require_shape(f"{name}.row", row.shape, (rows,))
    if dtypes == ("U8", "I8", "F32"):
        options: dict[str, object] = {
            "codebook": NF4,
            "block": block,
            "scale": "i8_row",
            "low_first": False,
            "global_divides": False,
        }
        layout = Layout("lut4", options, _4BIT.get(block, f"4bit/{block}"))
    elif dtypes == ("I8", "U8", "F32"):
        layout = Layout("int8", {"block": block, "scale": "u8_row"}, "8bit")
    else:
        raise CheckpointError(f"{name} has parts of {', '.join(dtypes)}, which is no known scheme")
    return StoredWeight(name, (rows, cols), _parts(name, q, scale, row), layout)


def _parts(name: str, q: TensorInfo, scale: TensorInfo, row: TensorInfo) -> tuple[StoredPart, ...]:
    return (
        StoredPart("q", f"{name}.q", q),
        StoredPart("scale", f"{name}.scale", scale),
        StoredPart("row", f"{name}.row", row),
    )
