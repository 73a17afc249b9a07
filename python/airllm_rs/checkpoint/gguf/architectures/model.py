"""What the description of an architecture consists of, and the tensors that layers are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.names import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airllm_rs.checkpoint.gguf.facts import Facts, Shape

Q, K, V, OUTPUT = "attn_q", "attn_k", "attn_v", "attn_output"

_OURS = {
    Q: "self_attn.q_proj",
    K: "self_attn.k_proj",
    V: "self_attn.v_proj",
    OUTPUT: "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Names:
    """What the checkpoint calls what is not in a layer, and what precedes the names in one."""

    embedding: str = "model.embed_tokens.weight"
    norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    layer: str = "model.layers.{}."


@dataclass(frozen=True)
class Model:
    """The model in a file, in the words of the checkpoint that it was made from."""

    model_type: str
    model_class: str
    shape: Shape
    layer: Callable[[int], list[Part]]
    """The tensors of a layer, in order of use; names are without what precedes them."""
    keys: Mapping[str, object]
    """Keys of config.json, laid over those that all have."""
    names: Names = field(default_factory=Names)
    norm_shift: float = 0.0
    """What has to be added to the weights of the last norm."""
    others: frozenset[str] = frozenset()
    """Tensors of the file that were read for the configuration."""


@dataclass(frozen=True)
class Architecture:
    """How the models of one ``general.architecture`` are read."""

    describe: Callable[[Facts], Model]
    reads: frozenset[str] = frozenset()
    """Keys that change what is computed, which it takes into account."""


def norm(theirs: str, ours: str, size: int, *, shift: float = 0.0) -> Part:
    """Return the weight of a norm."""
    return Part(f"{theirs}.weight", f"{ours}.weight", (size,), shift=shift)


def linear(
    theirs: str, ours: str, rows: int, columns: int, *, bias: bool = False, permuted: bool = False
) -> list[Part]:
    """Return a matrix and, if there is one, its bias."""
    parts = [Part(f"{theirs}.weight", f"{ours}.weight", (rows, columns), permuted)]
    if bias:
        parts.append(Part(f"{theirs}.bias", f"{ours}.bias", (rows,), permuted))
    return parts


def attention(
    shape: Shape,
    *,
    permuted: bool = False,
    qkv_bias: bool = False,
    output_bias: bool = False,
    qk_norm: bool = False,
    norm_shift: float = 0.0,
) -> list[Part]:
    """Return grouped-query attention with a matrix each for queries, keys and values."""
    hidden = shape.hidden
    norms = [
        norm(f"{part}_norm", f"self_attn.{name}_norm", shape.head_dim, shift=norm_shift)
        for part, name in ((Q, "q"), (K, "k"))
    ]
    return [
        *linear(Q, _OURS[Q], shape.queries, hidden, bias=qkv_bias, permuted=permuted),
        *linear(K, _OURS[K], shape.keys, hidden, bias=qkv_bias, permuted=permuted),
        *linear(V, _OURS[V], shape.keys, hidden, bias=qkv_bias),
        *(norms if qk_norm else ()),
        *linear(OUTPUT, _OURS[OUTPUT], hidden, shape.queries, bias=output_bias),
    ]


def fused_attention(shape: Shape, qkv: str, output: str, *, bias: bool = False) -> list[Part]:
    """Return attention with one matrix for queries, keys and values; names are the checkpoint's."""
    return [
        *linear("attn_qkv", qkv, shape.queries + 2 * shape.keys, shape.hidden, bias=bias),
        *linear(OUTPUT, output, shape.hidden, shape.queries),
    ]


def gated_mlp(shape: Shape, *, bias: bool = False) -> list[Part]:
    """Return a gated MLP."""
    sizes = {
        "ffn_gate": (shape.inner, shape.hidden),
        "ffn_up": (shape.inner, shape.hidden),
        "ffn_down": (shape.hidden, shape.inner),
    }
    return [
        part
        for theirs, (rows, columns) in sizes.items()
        for part in linear(theirs, _OURS[theirs], rows, columns, bias=bias)
    ]


def fused_mlp(shape: Shape, gate_up: str, down: str) -> list[Part]:
    """Return a gated MLP with one matrix for gate and up; names are the checkpoint's."""
    return [
        *linear("ffn_up", gate_up, 2 * shape.inner, shape.hidden),
        *linear("ffn_down", down, shape.hidden, shape.inner),
    ]


def experts(
    count: int,
    inner: int,
    hidden: int,
    *,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    prefix: str = "mlp.experts.",
    bias: bool = False,
) -> list[Part]:
    """Return gated MLPs of which each matrix is in one tensor with those of the others.

    ``names`` are the checkpoint's for gate, up and down.
    """
    sizes = ((inner, hidden), (inner, hidden), (hidden, inner))
    parts: list[Part] = []
    for kind, name, size in zip(("gate", "up", "down"), names, sizes, strict=True):
        theirs, ours = f"ffn_{kind}_exps", f"{prefix}{{}}.{name}"
        parts.append(Part(f"{theirs}.weight", f"{ours}.weight", (count, *size)))
        if bias:
            parts.append(Part(f"{theirs}.bias", f"{ours}.bias", (count, size[0])))
    return parts


def pre_norm(shape: Shape, attention_parts: list[Part], mlp_parts: list[Part]) -> list[Part]:
    """Return a layer with a norm before attention and one before the MLP."""
    return [
        norm("attn_norm", "input_layernorm", shape.hidden),
        *attention_parts,
        norm("ffn_norm", "post_attention_layernorm", shape.hidden),
        *mlp_parts,
    ]
