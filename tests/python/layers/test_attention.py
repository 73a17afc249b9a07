"""Attention against softmax written out."""

import pytest
import torch

from airllm_rs.layers.attention import attend


def written_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    odds = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    mixed: torch.Tensor = odds @ value
    return mixed.transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize(("tokens", "keys"), [(1, 9), (1, 1), (5, 5), (3, 9)])
def test_attention_is_softmax(heads: int, groups: int, tokens: int, keys: int) -> None:
    generator = torch.Generator().manual_seed(heads + keys)
    query = torch.randn(2, heads, tokens, 8, generator=generator)
    key = torch.randn(2, groups, keys, 8, generator=generator)
    value = torch.randn(2, groups, keys, 8, generator=generator)
    seen = torch.arange(keys) <= torch.arange(keys - tokens, keys)[:, None]
    want = written_out(query, key, value, seen)
    is_causal = tokens == keys > 1
    mask = None if is_causal or tokens == 1 else seen[None, None]
    got = attend(query, key, value, mask, is_causal=is_causal)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_one_query_heeds_its_mask() -> None:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, 4, 1, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 6, 8, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]], dtype=torch.bool)[:, None, None]
    got = attend(query, key, value, mask, is_causal=False)
    torch.testing.assert_close(got, written_out(query, key, value, mask), atol=1e-5, rtol=1e-5)
