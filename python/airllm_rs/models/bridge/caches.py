"""What a bridged model remembers tokens in."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from airllm_rs.cache import KvCache
from airllm_rs.errors import AirLLMError
from airllm_rs.models.bridge.tracing import is_plain_attention

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airllm_rs.models.bridge.describing import Bridged

_BROKEN = "_lost_tokens"


class FollowingCache(KvCache):
    """`KvCache` that shows each layer the lengths it would see if chunks came one by one."""

    def __init__(self, windows: Sequence[int | None], capacity: int) -> None:
        super().__init__(windows, capacity)
        self._at: int | None = None
        self._index = 0
        self._tokens = 0

    @contextmanager
    def at(self, length: int, tokens: int = 0, index: int = 0) -> Iterator[None]:
        """Pretend that layers below ``index`` hold ``tokens`` more than the others' ``length``."""
        self._at, self._tokens, self._index = length, tokens, index
        try:
            yield
        finally:
            self._at = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens are in."""
        if self._at is None or (self._tokens and layer_idx == self._index):
            return self._layers[layer_idx].length
        return self._at + (self._tokens if layer_idx < self._index else 0)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many keys the next update returns, and the position of the first."""
        if self._at is None or self._tokens:
            return super().get_mask_sizes(query_length, layer_idx)
        total = self._at + query_length
        window = self._layers[layer_idx].window
        seen = total if window is None else min(total, window - 1 + query_length)
        return seen, total - seen

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Forget what came in if an exception leaves the block."""
        if self._is_broken:
            raise AirLLMError(
                "this KV cache lost tokens in an interrupted sweep; begin with a new one"
            )
        before = self._layers[0].length
        try:
            yield
        except BaseException:
            self._undo(before)
            raise


@contextmanager
def guarded(cache: Cache | None) -> Iterator[None]:
    """Leave ``cache`` as it was if an exception leaves the block, or never use it again."""
    if cache is None:
        yield
    elif isinstance(cache, FollowingCache):
        with cache.undoing():
            yield
    else:
        if getattr(cache, _BROKEN, False):
            raise AirLLMError("this cache holds part of an interrupted sweep; begin with a new one")
        setattr(cache, _BROKEN, True)
        yield
        setattr(cache, _BROKEN, False)


class CountedCache(DynamicCache):
    """transformers' cache, of a length also where no layer keeps keys and values."""

    tokens = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens are in."""
        if any(isinstance(layer, CacheLayerMixin) for layer in self.layers):
            return super().get_seq_length(layer_idx)
        return self.tokens


def note_tokens(cache: Cache | None, tokens: int) -> None:
    """Say that ``tokens`` more are in ``cache``."""
    if isinstance(cache, CountedCache):
        cache.tokens += tokens


def new_cache(bridged: Bridged, windows: Sequence[int | None], capacity: int) -> Cache | None:
    """Return an empty cache for ``capacity`` tokens of each sequence.

    None if the model keeps nothing that could be passed to it.
    """
    made, config = bridged.trace.cache, bridged.skeleton.model.config
    if is_plain_attention(made):
        return FollowingCache(windows, capacity)
    if type(made) is DynamicCache or not bridged.trace.is_complete:
        return CountedCache(config=config)
    if not isinstance(made, Cache):
        return None
    takes_config = "config" in inspect.signature(type(made)).parameters
    return type(made)(config=config) if takes_config else type(made)()  # type: ignore[call-arg]
