"""Masks against the definition, and only where one is needed."""

import pytest
import torch

from airllm_rs.layers.mask import Span, attention_mask


def visible(span: Span, window: int | None, padding: int) -> torch.Tensor:
    """Say by brute force which keys each query sees; ``padding`` tokens lead the sequence."""
    table = torch.zeros(span.tokens, span.keys, dtype=torch.bool)
    for row in range(span.tokens):
        for column in range(span.keys):
            query, key = span.start + row, span.key_start + column
            near = window is None or key > query - window
            table[row, column] = (key <= query and near and key >= padding) or (
                key == query and padding > 0
            )
    return table


@pytest.mark.parametrize("window", [None, 3, 8])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize(
    "span", [Span(0, 6, 0, 6), Span(4, 5, 0, 9), Span(9, 1, 0, 10), Span(9, 4, 6, 7)]
)
def test_mask_is_the_definition(span: Span, window: int | None, padding: int) -> None:
    total = span.start + span.tokens
    valid = torch.arange(total)[None] >= padding if padding else None
    mask, is_causal = attention_mask(span, window, valid)
    want = visible(span, window, padding)
    if is_causal:
        assert torch.equal(want, torch.ones_like(want).tril())
    elif mask is None:
        assert want.all()
    else:
        assert torch.equal(mask[0, 0], want)


def test_no_mask_where_causal_says_it_all() -> None:
    assert attention_mask(Span(0, 7, 0, 7)) == (None, True)
    assert attention_mask(Span(0, 7, 0, 7), window=7) == (None, True)
    assert attention_mask(Span(6, 1, 0, 7)) == (None, False)
    assert attention_mask(Span(6, 1, 4, 3), window=3) == (None, False)
    assert attention_mask(Span(0, 7, 0, 7), valid=torch.ones(2, 7, dtype=torch.bool)) == (
        None,
        True,
    )


def test_slots_beyond_the_sequence_are_hidden() -> None:
    mask, is_causal = attention_mask(Span(2, 1, 0, 6))
    assert not is_causal
    assert mask is not None
    assert mask[0, 0, 0].tolist() == [True, True, True, False, False, False]


def test_a_padded_query_sees_itself() -> None:
    valid = torch.tensor([[False, False, True, True], [True, True, True, True]])
    mask, _ = attention_mask(Span(0, 4, 0, 4), valid=valid)
    assert mask is not None
    assert mask.any(dim=-1).all()
    assert mask[0, 0, 3].tolist() == [False, False, True, True]
