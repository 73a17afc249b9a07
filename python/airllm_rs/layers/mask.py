"""Which keys a query may see."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Span:
    """Where a run of queries and the keys offered to it lie in their sequences.

    Queries are at [start, start + tokens), keys at [key_start, key_start + keys).
    """

    start: int
    tokens: int
    key_start: int
    keys: int


@dataclass(frozen=True, slots=True)
class Sight:
    """Which keys the queries of a chunk see, in the words of torch and in those of the kernels."""

    mask: torch.Tensor | None = None
    """Boolean, (B or 1, 1, T, S); None where none is needed."""
    is_causal: bool = False
    origins: tuple[int, ...] | None = None
    """Of each sequence, which of the keys is that of its first token; empty for 0, see
    `_core.attend`. None where the last query is not the last key's token."""
    window: int | None = None
    has_holes: bool = False
    """Whether ``mask`` says more than ``origins`` and ``window``."""
    span: Span | None = None


def attention_mask(
    span: Span, window: int | None = None, valid: torch.Tensor | None = None
) -> tuple[torch.Tensor | None, bool]:
    """Return a mask for `scaled_dot_product_attention` and whether ``is_causal`` says it all.

    The mask, boolean of shape (B or 1, 1, tokens, keys), is None where none is needed. ``window``
    is the number of latest keys a query sees, itself included. ``valid`` of shape (B, S) is false
    where a sequence is padded; a padded query sees itself, so that no row is empty.
    """
    last = span.start + span.tokens - 1
    key_stop = span.key_start + span.keys
    if valid is not None:
        valid = valid[:, span.key_start : key_stop]
        if bool(valid.all()):
            valid = None
    is_cut = window is not None and last - span.key_start >= window
    if valid is None and not is_cut and key_stop == last + 1:
        if span.tokens == 1:
            return None, False
        if span.keys == span.tokens:
            return None, True
    query = torch.arange(span.start, last + 1).unsqueeze(1)
    key = torch.arange(span.key_start, key_stop).unsqueeze(0)
    seen = key <= query
    if window is not None and is_cut:
        seen &= key > query - window
    if valid is None:
        return seen[None, None], False
    return ((seen & valid[:, None]) | (key == query)).unsqueeze(1), False


def sight(
    span: Span, sequences: int, window: int | None = None, valid: torch.Tensor | None = None
) -> Sight:
    """Return what queries of so many sequences see; arguments are those of `attention_mask`."""
    mask, is_causal = attention_mask(span, window, valid)
    if span.key_start + span.keys != span.start + span.tokens:
        return Sight(mask, is_causal, span=span)
    if valid is None or bool(valid.all()):
        origins = (-span.key_start,) * sequences if span.key_start else ()
        return Sight(mask, is_causal, origins, window, span=span)
    length = valid.shape[1]
    padding = torch.where(valid, torch.arange(length), length).amin(1)
    has_holes = bool((valid.sum(1) != length - padding).any())
    origins = tuple(first - span.key_start for first in padding.tolist())
    return Sight(mask, is_causal, origins, window, has_holes, span)
