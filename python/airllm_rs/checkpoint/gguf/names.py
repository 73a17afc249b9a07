"""The tensors of a GGUF file and of the checkpoint it was made from: names, shapes, row order."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from airllm_rs.checkpoint.gguf.source import StoredTensor

EMBEDDING = "token_embd.weight"
NORM = "output_norm.weight"
HEAD = "output.weight"
ROPE_FACTORS = "rope_freqs.weight"

# Frequencies that some converters copied although nothing needs them.
_IGNORED_SUFFIX = ".attn_rot_embd"

_SHOWN = 3


class Part(NamedTuple):
    """A tensor that a file should have, and what the checkpoint calls it."""

    theirs: str
    ours: str
    """With ``{}`` a tensor for each index of the first dimension, such as an expert's."""
    shape: tuple[int, ...]
    """In the file."""
    is_permuted: bool = False
    """Whether rows were reordered within each head: llama.cpp rotates 2i with 2i + 1."""
    shift: float = 0.0
    """What has to be added to the numbers in the file."""
    is_flat: bool = False
    """Whether the matrices of all heads are one below the other in the checkpoint."""


class Match(NamedTuple):
    """A tensor of the file with the name that the checkpoint has for it."""

    name: str
    stored: StoredTensor
    is_permuted: bool = False
    shift: float = 0.0


def match_tensors(
    path: Path,
    tensors: Mapping[str, StoredTensor],
    parts: Sequence[Part],
    *,
    layers: int,
    others: Collection[str] = (),
) -> list[Match]:
    """Return the tensors of the checkpoint in order of use.

    Args:
        path: The file, for messages.
        tensors: What it has.
        parts: What it should have.
        layers: How many layers there are; what belongs to later ones is left out.
        others: Tensors that it may have beyond.

    Raises:
        CheckpointError: naming tensors that are missing, or one of a wrong shape.
        UnsupportedModelError: naming tensors that are no part of such a model.
    """
    names = {part.theirs for part in parts}
    if missing := [part.theirs for part in parts if part.theirs not in tensors]:
        raise CheckpointError(f"{path} lacks {_some(missing)}")
    extra = [name for name in tensors if name not in names and name not in others]
    extra = [name for name in extra if _IGNORED_SUFFIX not in name and not _is_after(name, layers)]
    if extra:
        raise UnsupportedModelError(f"{path} has {_some(extra)}, which is not known here")
    matches: list[Match] = []
    for part in parts:
        stored = tensors[part.theirs]
        if stored.shape != part.shape:
            raise CheckpointError(
                f"{path}: {part.theirs} has shape {list(stored.shape)}, expected "
                f"{list(part.shape)} from the metadata"
            )
        matches.extend(_matches(part, stored))
    return matches


def _matches(part: Part, stored: StoredTensor) -> Iterator[Match]:
    if part.is_flat:
        stored = stored._replace(shape=(prod(part.shape[:-1]), part.shape[-1]))
    if "{}" not in part.ours:
        yield Match(part.ours, stored, part.is_permuted, part.shift)
        return
    count, *shape = stored.shape
    nbytes = stored.nbytes // count
    for index in range(count):
        one = stored._replace(
            shape=tuple(shape), offset=stored.offset + index * nbytes, nbytes=nbytes
        )
        yield Match(part.ours.format(index), one)


def _is_after(name: str, layers: int) -> bool:
    """Tell whether a tensor is of layers that guess further tokens, behind the others."""
    found = re.match(r"blk\.(\d+)\.", name)
    return found is not None and int(found[1]) >= layers


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
