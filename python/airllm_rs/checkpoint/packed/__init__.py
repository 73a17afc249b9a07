"""Packed weights of a checkpoint, found by the names and shapes of their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed import (
    airllm,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gpt_oss,
    gptq,
    store,
)
from airllm_rs.checkpoint.packed.methods import check_quantization, method_of
from airllm_rs.checkpoint.packed.tensors import Tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airllm_rs.checkpoint.stored import StoredWeight, TensorInfo
    from airllm_rs.checkpoint.tensor_table import TensorTable

__all__ = ["check_quantization", "method_of", "packed_weights"]

_FORMATS = (store, airllm, bitsandbytes, gptq, compressed_tensors, fp8, gpt_oss)


def packed_weights(
    core: TensorTable,
    config: Mapping[str, object],
    read: Callable[[str, TensorInfo], bytes] | None = None,
) -> dict[str, StoredWeight]:
    """Return the weights that are not stored as plain numbers, by name.

    Each tensor is looked at for itself: a checkpoint may hold several formats.

    Args:
        core: The tensors.
        config: The contents of config.json, whose ``quantization_config`` some formats need.
        read: Returns the bytes of a small tensor; from the files if None.

    Raises:
        CheckpointError: naming a weight that lacks a part, or has one of a wrong shape.
        UnsupportedModelError: naming a weight that is packed in a way that cannot be read.
    """
    tensors = Tensors(core, read)
    found: dict[str, StoredWeight] = {}
    for format_ in _FORMATS:
        found |= format_.find(tensors, config)
    return found
