"""The tensors of a GGUF file and of the checkpoint it was made from: names, shapes, row order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from airllm_rs.checkpoint.gguf.config import Shape
    from airllm_rs.checkpoint.gguf.source import StoredTensor

EMBEDDING = "token_embd.weight"
NORM = "output_norm.weight"
HEAD = "output.weight"
ROPE_FACTORS = "rope_freqs.weight"

Q, K = "attn_q", "attn_k"

# Of a decoder layer, in order of use: GGUF's name, the checkpoint's, rows and columns.
_LAYER = {
    "attn_norm": ("input_layernorm", ("hidden",)),
    Q: ("self_attn.q_proj", ("queries", "hidden")),
    K: ("self_attn.k_proj", ("keys", "hidden")),
    "attn_v": ("self_attn.v_proj", ("keys", "hidden")),
    "attn_q_norm": ("self_attn.q_norm", ("head_dim",)),
    "attn_k_norm": ("self_attn.k_norm", ("head_dim",)),
    "attn_output": ("self_attn.o_proj", ("hidden", "queries")),
    "ffn_norm": ("post_attention_layernorm", ("hidden",)),
    "ffn_gate": ("mlp.gate_proj", ("inner", "hidden")),
    "ffn_up": ("mlp.up_proj", ("inner", "hidden")),
    "ffn_down": ("mlp.down_proj", ("hidden", "inner")),
}
QKV_BIASES = (Q, K, "attn_v")
OUTPUT_BIAS = "attn_output"
MLP_BIASES = ("ffn_gate", "ffn_up", "ffn_down")
QK_NORMS = ("attn_q_norm", "attn_k_norm")

# Frequencies that some converters copied although nothing needs them.
_IGNORED_SUFFIX = ".attn_rot_embd"

_SHOWN = 3


class Match(NamedTuple):
    """A tensor of the file with the name that the checkpoint has for it."""

    name: str
    stored: StoredTensor
    is_permuted: bool
    """Whether rows were reordered within each head: llama.cpp rotates 2i with 2i + 1."""


def match_tensors(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    shape: Shape,
    *,
    biases: Sequence[str],
    qk_norm: bool,
    is_permuted: bool,
) -> list[Match]:
    """Return the tensors of the checkpoint in order of use.

    Args:
        path: The file, for messages.
        tensors: What it has.
        shape: What its metadata says.
        biases: The parts of each layer that have one.
        qk_norm: Whether queries and keys are normalised per head.
        is_permuted: Whether the architecture's queries and keys are.

    Raises:
        CheckpointError: naming tensors that are missing, or one of a wrong shape.
        UnsupportedModelError: naming tensors that are no part of such a model.
    """
    wanted: list[tuple[str, str, tuple[int, ...], bool]] = []
    table = (shape.vocab, shape.hidden)
    wanted.append((EMBEDDING, "model.embed_tokens.weight", table, False))
    for n in range(shape.layers):
        for part, (name, sizes) in _LAYER.items():
            if part in QK_NORMS and not qk_norm:
                continue
            permuted = is_permuted and part in (Q, K)
            dimensions = tuple(getattr(shape, size) for size in sizes)
            theirs, ours = f"blk.{n}.{part}", f"model.layers.{n}.{name}"
            wanted.append((f"{theirs}.weight", f"{ours}.weight", dimensions, permuted))
            if part in biases:
                wanted.append((f"{theirs}.bias", f"{ours}.bias", dimensions[:1], permuted))
    wanted.append((NORM, "model.norm.weight", (shape.hidden,), False))
    if HEAD in tensors:
        wanted.append((HEAD, "lm_head.weight", table, False))
    names = {theirs for theirs, *_ in wanted}
    if missing := [theirs for theirs, *_ in wanted if theirs not in tensors]:
        raise CheckpointError(f"{path} lacks {_some(missing)}")
    extra = [name for name in tensors if name not in names and name != ROPE_FACTORS]
    if extra := [name for name in extra if _IGNORED_SUFFIX not in name]:
        raise UnsupportedModelError(f"{path} has {_some(extra)}, which is not known here")
    matches: list[Match] = []
    for theirs, ours, dimensions, permuted in wanted:
        stored = tensors[theirs]
        if stored.shape != dimensions:
            raise CheckpointError(
                f"{path}: {theirs} has shape {list(stored.shape)}, expected {list(dimensions)} "
                "from the metadata"
            )
        matches.append(Match(ours, stored, permuted))
    return matches


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
