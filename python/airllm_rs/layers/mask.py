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
