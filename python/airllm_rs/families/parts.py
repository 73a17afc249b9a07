"""The tensors of the parts that decoder layers are made of, in order of use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.families.family import TensorSpec

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig


def vector(name: str, size: int, parameter: str = "") -> TensorSpec:
    """Return a norm's weight, called ``name.weight``."""
    return TensorSpec(f"{name}.weight", (size,), f"{parameter}.weight" if parameter else "")


def linear(
    name: str, rows: int, columns: int, *, bias: bool = False, parameter: str = ""
) -> tuple[TensorSpec, ...]:
    """Return a matrix ``name.weight`` and, if there is one, ``name.bias``.

    ``parameter`` is what the module has them as, without ``.weight``; the same if empty.
    """
    ours = parameter or name
    weight = TensorSpec(f"{name}.weight", (rows, columns), f"{ours}.weight")
    return (weight, TensorSpec(f"{name}.bias", (rows,), f"{ours}.bias")) if bias else (weight,)


def attention(
    config: ModelConfig,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    qk_norm: bool = False,
) -> tuple[TensorSpec, ...]:
    """Return grouped-query attention with a matrix each for queries, keys and values."""
    hidden = config.hidden_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    norms = (
        vector("self_attn.q_norm", config.head_dim),
        vector("self_attn.k_norm", config.head_dim),
    )
    return (
        *linear("self_attn.q_proj", queries, hidden, bias=qkv_bias),
        *linear("self_attn.k_proj", keys, hidden, bias=qkv_bias),
        *linear("self_attn.v_proj", keys, hidden, bias=qkv_bias),
        *(norms if qk_norm else ()),
        *linear("self_attn.o_proj", hidden, queries, bias=output_bias),
    )


def fused_attention(
    config: ModelConfig,
    qkv: str,
    output: str,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
) -> tuple[TensorSpec, ...]:
    """Return grouped-query attention with one matrix for queries, keys and values.

    ``qkv`` and ``output`` are what the checkpoint calls the two matrices.
    """
    queries = config.num_attention_heads * config.head_dim
    rows = queries + 2 * config.num_key_value_heads * config.head_dim
    hidden = config.hidden_size
    return (
        *linear(qkv, rows, hidden, bias=qkv_bias, parameter="self_attn.qkv_proj"),
        *linear(output, hidden, queries, bias=output_bias, parameter="self_attn.o_proj"),
    )


def gated_mlp(
    hidden: int, inner: int, *, bias: bool = False, prefix: str = "mlp."
) -> tuple[TensorSpec, ...]:
    """Return a gated MLP."""
    return (
        *linear(f"{prefix}gate_proj", inner, hidden, bias=bias),
        *linear(f"{prefix}up_proj", inner, hidden, bias=bias),
        *linear(f"{prefix}down_proj", hidden, inner, bias=bias),
    )


def fused_mlp(
    hidden: int, inner: int, gate_up: str, down: str, *, bias: bool = False
) -> tuple[TensorSpec, ...]:
    """Return a gated MLP with one matrix for gate (first) and up; names are the checkpoint's."""
    return (
        *linear(gate_up, 2 * inner, hidden, bias=bias, parameter="mlp.gate_up_proj"),
        *linear(down, hidden, inner, bias=bias, parameter="mlp.down_proj"),
    )


def pre_norm(
    config: ModelConfig,
    attention_tensors: tuple[TensorSpec, ...],
    mlp_tensors: tuple[TensorSpec, ...],
) -> tuple[TensorSpec, ...]:
    """Return a layer with a norm before attention and one before the MLP."""
    return (
        vector("input_layernorm", config.hidden_size),
        *attention_tensors,
        vector("post_attention_layernorm", config.hidden_size),
        *mlp_tensors,
    )
