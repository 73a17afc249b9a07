"""The parts that AirLLM's splits are made of: ``X.4bit.…`` and ``X.8bit.…`` beside each tensor."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed.bitsandbytes import four_bits, table
from airllm_rs.checkpoint.packed.tensors import along, common_step, require_dtype
from airllm_rs.checkpoint.stored import Layout, StoredPart, StoredWeight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.checkpoint.packed.tensors import Tensors

_4BIT = ".4bit.quant_state.bitsandbytes__"
_8BIT = ".8bit.absmax"
# What AirLLM has always written; no tensor says it.
_BLOCK = 2048


def find(tensors: Tensors, config: Mapping[str, object]) -> dict[str, StoredWeight]:
    """Return the weights that are packed so: every tensor, norms and the embedding too."""
    del config
    found = {}
    for name in tensors.names:
        stem, _, kind = name.rpartition(_4BIT)
        if stem:
            found[stem] = four_bits(tensors, stem, f"{stem}.4bit", kind, "airllm")
        elif name.endswith(_8BIT):
            weight = _eight_bits(tensors, name.removesuffix(_8BIT))
            found[weight.name] = weight
    return found


def _eight_bits(tensors: Tensors, name: str) -> StoredWeight:
    q, absmax = tensors.part(name, ""), tensors.part(name, _8BIT)
    require_dtype(name, q.dtype, "U8")
    require_dtype(name + _8BIT, absmax.dtype, "F32")
    shape = q.shape or (1,)
    matrix = prod(shape[:-1]), shape[-1]
    seen, step = along(name + _8BIT, absmax, matrix, _BLOCK)
    parts = (
        StoredPart("q", name, q._replace(shape=matrix)),
        StoredPart("scale", name + _8BIT, seen, step),
    )
    options = {"codebook": table(tensors, f"{name}.8bit", ".code", 256), "block": _BLOCK}
    return StoredWeight(
        name,
        shape,
        parts,
        Layout("table8", options, "airllm-8bit"),
        row_step=common_step(parts),
        aside=(f"{name}.8bit.code",),
    )
