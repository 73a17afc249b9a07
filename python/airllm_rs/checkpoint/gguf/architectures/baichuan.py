"""Baichuan 1 and 2, told apart by their layers: 32 have RoPE, 40 have ALiBi."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures.model import (
    Architecture,
    Model,
    attention,
    gated_mlp,
    pre_norm,
)
from airllm_rs.checkpoint.gguf.rope import rope_parameters
from airllm_rs.errors import UnsupportedModelError

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.facts import Facts

_POSITIONS = {32: "rope", 40: "alibi"}


def _baichuan(facts: Facts) -> Model:
    shape = facts.shape()
    positions = _POSITIONS.get(shape.layers)
    if positions is None:
        raise UnsupportedModelError(
            f"{facts.path}: Baichuan of {shape.layers} layers; only of 32 (RoPE) and 40 (ALiBi) "
            "the file says how positions count: use the original checkpoint"
        )
    keys = {"position_embedding": positions, "split_qkv": True, **rope_parameters(facts, shape)}
    return Model(
        "baichuan",
        "BaichuanForCausalLM",
        shape,
        # the rows of those with ALiBi are moved too
        lambda _: pre_norm(shape, attention(shape, permuted=True), gated_mlp(shape)),
        keys,
    )


BAICHUAN = Architecture(_baichuan, frozenset({"attention.max_alibi_bias"}))
