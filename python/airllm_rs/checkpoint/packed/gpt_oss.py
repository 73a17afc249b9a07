"""The experts of gpt-oss: MXFP4 in ``X_blocks`` and ``X_scales``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed.codebooks import E2M1
from airllm_rs.checkpoint.packed.tensors import require_dtype, require_shape
from airllm_rs.checkpoint.stored import Layout, StoredPart, StoredWeight
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.checkpoint.packed.tensors import Tensors

_SUFFIX = "_blocks"


def find(tensors: Tensors, config: Mapping[str, object]) -> dict[str, StoredWeight]:
    """Return the weights that are packed so, of shape (experts, outputs, inputs)."""
    del config
    weights = (
        _weight(tensors, name)
        for name in tensors.names
        if name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) + "_scales" in tensors
    )
    return {weight.name: weight for weight in weights}


def _weight(tensors: Tensors, q_name: str) -> StoredWeight:
    name = q_name.removesuffix(_SUFFIX)
    q, scale = tensors.info(q_name), tensors.part(name, "_scales")
    require_dtype(q_name, q.dtype, "U8")
    require_dtype(f"{name}_scales", scale.dtype, "U8", "F8_E8M0")
    if len(q.shape) != 4 or not all(q.shape) or q.shape[3] != 16:
        raise CheckpointError(f"{q_name} has shape {list(q.shape)}, expected [E, N, K / 32, 16]")
    experts, rows, blocks, _ = q.shape
    require_shape(f"{name}_scales", scale.shape, q.shape[:3])
    options = {
        "codebook": E2M1,
        "block": 32,
        "scale": "e8m0",
        "low_first": True,
        "global_divides": False,
    }
    parts = (
        StoredPart("q", q_name, q._replace(shape=(experts * rows, blocks * 16))),
        StoredPart("scale", f"{name}_scales", scale._replace(shape=(experts * rows, blocks))),
    )
    shape = (experts, rows, blocks * 32)
    return StoredWeight(name, shape, parts, Layout("lut4", options, "mxfp4"))
