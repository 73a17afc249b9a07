"""The KV cache against transformers' DynamicCache, operation by operation."""

import pytest
import torch
from transformers import DynamicCache, MistralConfig

from airllm_rs.cache import KvCache
from airllm_rs.cache.kv import FleetingCache
from airllm_rs.cache.layer import KvLayer
from airllm_rs.errors import AirLLMError

LAYERS, GROUPS, SIZE = 2, 2, 4


def states(tokens: int, seed: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, batch, GROUPS, tokens, SIZE, generator=generator)
    return keys, values


def both(window: int | None) -> tuple[KvCache, DynamicCache]:
    config = MistralConfig(num_hidden_layers=LAYERS, sliding_window=window)
    return KvCache([window] * LAYERS, 64), DynamicCache(config=config)


def fill(caches: tuple[KvCache, DynamicCache], tokens: int, seed: int, batch: int = 2) -> None:
    ours, theirs = caches
    for layer in range(LAYERS):
        keys, values = states(tokens, seed + layer, batch)
        sizes = ours.get_mask_sizes(tokens, layer)
        assert sizes == theirs.get_mask_sizes(tokens, layer)
        got = ours.update(keys, values, layer)
        want = theirs.update(keys, values, layer)
        assert sizes[0] == got[0].shape[2]
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])
    assert ours.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize("window", [None, 5])
def test_updates_are_transformers(window: int | None) -> None:
    caches = both(window)
    for seed, tokens in enumerate([7, 1, 1, 3, 1, 9, 1]):
        fill(caches, tokens, seed)


@pytest.mark.parametrize("window", [None, 5])
def test_beams_are_reordered(window: int | None) -> None:
    caches = both(window)
    fill(caches, 9, 1)
    for cache in caches:
        cache.reorder_cache(torch.tensor([1, 1]))  # type: ignore[arg-type]
    fill(caches, 1, 2)


def test_batches_are_repeated_and_selected() -> None:
    caches = both(None)
    fill(caches, 4, 1)
    for cache in caches:
        cache.batch_repeat_interleave(3)
    fill(caches, 2, 2, batch=6)
    for cache in caches:
        cache.batch_select_indices(torch.tensor([4, 0]))
    fill(caches, 1, 3)


@pytest.mark.parametrize("window", [None, 5])
def test_tokens_can_be_taken_back(window: int | None) -> None:
    caches = both(window)
    for cache in caches:
        cache.activate_past_recording()  # type: ignore[no-untyped-call]
    fill(caches, 9, 1)
    for seed, removed in enumerate([-2, -1, 0, -3]):
        for cache in caches:
            cache.crop(removed)
        fill(caches, 4, 10 * seed)
    with pytest.raises(ValueError, match="minus"):
        caches[0].crop(3)


def test_a_window_holds_little_more_than_itself() -> None:
    cache = KvCache([4], 5000)
    for seed in range(1500):
        cache.update(*states(1, seed, batch=1), 0)
    layer = cache.layers[0]
    assert isinstance(layer, KvLayer)
    assert layer.keys is not None
    assert layer.keys.shape[2] <= 4 + 256
    assert cache.get_seq_length() == 1500


def test_memory_is_not_taken_twice() -> None:
    cache = KvCache([None], 32)
    first, _ = cache.update(*states(3, 1), 0)
    second, _ = cache.update(*states(5, 2), 0)
    assert first.data_ptr() == second.data_ptr()


def test_more_than_reserved_is_refused_until_asked_for() -> None:
    cache = KvCache([None], 8)
    keys, values = states(6, 1)
    cache.update(keys, values, 0)
    with pytest.raises(AirLLMError, match="reserved for 8 tokens, 12 are needed"):
        cache.update(keys, values, 0)
    cache.reserve(12)
    got, _ = cache.update(keys, values, 0)
    assert torch.equal(got, torch.cat([keys, keys], dim=2))


def test_a_failed_sweep_leaves_the_length() -> None:
    cache = KvCache([None, None], 32)
    for layer in range(2):
        cache.update(*states(5, 1), layer)

    def fail() -> None:
        with cache.filling(3):
            cache.update(*states(3, 2), 0)
            assert cache.get_seq_length() == 8
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [cache.get_seq_length(layer) for layer in range(2)] == [5, 5]


def test_a_window_that_moved_on_says_so() -> None:
    cache = KvCache([4], 2000)
    cache.update(*states(6, 1), 0)

    def fail() -> None:
        with cache.filling(900):
            for seed in range(3):
                cache.update(*states(300, seed), 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(AirLLMError, match="interrupted"), cache.filling(1):
        pass
    cache.reset()
    with cache.filling(1):
        cache.update(*states(1, 1), 0)


def test_a_cache_made_in_inference_mode_is_writable_outside() -> None:
    cache = KvCache([None], 8)
    with torch.inference_mode():
        cache.update(*states(2, 1), 0)
    cache.update(*states(2, 2), 0)
    assert cache.get_seq_length() == 4


def test_a_fleeting_cache_forgets_the_layer_before() -> None:
    cache = FleetingCache([None, None], 8)
    cache.update(*states(2, 1), 0)
    keys, values = states(3, 2)
    got, _ = cache.update(keys, values, 1)
    assert torch.equal(got, keys)
    assert cache.get_mask_sizes(2, 1) == (5, 0)
