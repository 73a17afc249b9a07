"""Attention against softmax written out."""

import pytest
import torch

from airllm_rs import _core
from airllm_rs.layers.mask import Sight, Span, sight
from airllm_rs.layers.scores import attend
from airllm_rs.weights.packed import KERNEL_CODES, buffer


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
    got = attend(query, key, value, Sight(mask, is_causal))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_one_query_heeds_its_mask() -> None:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, 4, 1, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 6, 8, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]], dtype=torch.bool)[:, None, None]
    got = attend(query, key, value, Sight(mask))
    torch.testing.assert_close(got, written_out(query, key, value, mask), atol=1e-5, rtol=1e-5)


TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def written_out_in_float64(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    out = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=mask, enable_gqa=True
    )
    return out.transpose(1, 2).flatten(2)


def cached(shape: tuple[int, ...], room: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return random vectors as a view into a larger cache that holds no numbers elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    store = torch.full((*shape[:2], room, shape[3]), float("nan"), dtype=dtype)
    view = store.narrow(2, 3, shape[2])
    view.copy_(torch.randn(shape, generator=generator))
    return view


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("padding", [(), (0, 0, 3), (5, 0, 600), "holes"])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("tokens", "keys"), [(1, 700), (4, 1030), (32, 700), (9, 9)])
def test_kernels_see_what_torch_sees(
    tokens: int,
    keys: int,
    window: int | None,
    padding: tuple[int, ...] | str,
    dtype: torch.dtype,
) -> None:
    key = cached((3, 2, keys, 16), keys + 9, dtype, 1)
    value = cached((3, 2, keys, 16), keys + 5, dtype, 2)
    # as the projection leaves it: the heads of a token side by side
    query = cached((3, 6, tokens, 16), tokens + 3, dtype, 3).transpose(1, 2).contiguous()
    query = query.transpose(1, 2)
    valid = torch.ones(3, keys, dtype=torch.bool)
    if padding == "holes":
        valid[1, keys // 2] = False
        valid[2, : keys // 3 : 2] = False
    else:
        for sequence, count in enumerate(padding):
            valid[sequence, :count] = False
    seen = sight(Span(keys - tokens, tokens, 0, keys), 3, window, valid)
    assert seen.origins is not None
    assert seen.has_holes == (padding == "holes")
    mask = seen.mask
    if seen.is_causal:
        mask = torch.ones(tokens, keys, dtype=torch.bool).tril()[None, None]
    want = written_out_in_float64(query, key, value, mask)
    found = attend(query, key, value, seen)
    is_token = valid[:, keys - tokens :, None].expand_as(want)
    allowed = TOLERANCES[dtype]
    torch.testing.assert_close(found.double()[is_token], want[is_token], atol=allowed, rtol=allowed)
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_scores_are_added_to(dtype: torch.dtype) -> None:
    key, value = cached((2, 2, 20, 16), 30, dtype, 1), cached((2, 2, 20, 16), 30, dtype, 2)
    query = cached((2, 4, 1, 16), 9, dtype, 3)
    added = torch.randn(2, 1, 1, 20, generator=torch.Generator().manual_seed(4))
    added[1, ..., 3:9] = float("-inf")
    want = written_out_in_float64(query, key, value, added.double())
    found = torch.empty(2, 1, 64, dtype=dtype)
    code = KERNEL_CODES[dtype]
    q, k, v, out = (buffer(part) for part in (query, key, value, found))
    _core.attend(q, k, v, out, code, scale=0.25, mask=buffer(added))
    allowed = TOLERANCES[dtype]
    torch.testing.assert_close(found.double(), want, atol=allowed, rtol=allowed)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_token_gets_the_same_bits_in_any_company(dtype: torch.dtype) -> None:
    window, keys, padding = 40, 1100, (37, 0)
    key, value = cached((2, 2, keys, 16), 1200, dtype, 1), cached((2, 2, keys, 16), 1200, dtype, 2)
    query = cached((2, 6, 4, 16), 8, dtype, 3)
    valid = torch.ones(2, keys, dtype=torch.bool)
    valid[0, : padding[0]] = False
    for cut in (None, window):
        both = attend(query, key, value, sight(Span(keys - 4, 4, 0, keys), 2, cut, valid))
        for sequence in range(2):
            for token in range(4):
                # alone, without the padding, and with no more keys than the window lets it see
                stop = keys - 3 + token
                first = padding[sequence] if cut is None else stop - window
                some = slice(sequence, sequence + 1), slice(None), slice(first, stop)
                position, gone = stop - 1 - padding[sequence], first - padding[sequence]
                span = Span(position, 1, gone, stop - first)
                alone = attend(
                    query[some[0], :, token : token + 1], key[some], value[some],
                    sight(span, 1, cut),
                )  # fmt: skip
                assert torch.equal(alone[0, 0], both[sequence, token])


def test_what_does_not_fit_is_refused() -> None:
    query, key = torch.zeros(1, 4, 1, 8), torch.zeros(1, 2, 5, 8)
    out = torch.zeros(1, 1, 32)

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: object) -> None:
        _core.attend(buffer(q), buffer(k), buffer(v), buffer(out), "F32", scale=1, **more)  # type: ignore[arg-type]

    call(query, key, key)
    for refused in (
        (query[..., :7], key, key),
        (query[0], key, key),
        (query[:, :3], key, key),
        (query.half(), key, key),
        (query, key, key[:, :1]),
        (query.expand(2, 4, 1, 8), key, key),
        (query.transpose(2, 3).reshape(1, 4, 8, 1).transpose(2, 3)[..., ::2], key, key),
        (query.expand(1, 4, 33, 8), key, key),
    ):
        with pytest.raises(ValueError, match=r".+"):
            call(*refused)
    for more in (
        {"origins": [1 << 60, 1], "window": 0},
        {"origins": [], "mask": buffer(torch.zeros(1, 1, 1, 4))},
        {"origins": [-(1 << 62)]},
        {"mask": buffer(torch.zeros(1, 1, 1, 5).double())},
        {"sinks": buffer(torch.zeros(3))},
    ):
        with pytest.raises(ValueError, match=r".+"):
            call(query, key, key, **more)
