"""The KV cache of a model: one reserved layer after the other."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from transformers import Cache

from airllm_rs.cache.layer import KvLayer
from airllm_rs.errors import AirLLMError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

AnyCache = Cache
"""A cache of ours or one of transformers'."""


class KvCache(Cache):
    """Keys and values of every layer, in RAM, in place.

    Callers see the length that was declared by the last whole sweep, while layers fill up one
    after the other; a sweep that fails leaves the cache as it was.
    """

    def __init__(self, windows: Sequence[int | None], capacity: int) -> None:
        """Reserve ``capacity`` tokens of each sequence for layers with these attention windows."""
        self._layers = [KvLayer(capacity, window) for window in windows]
        super().__init__(layers=list(self._layers))
        self.first_lengths: tuple[int, ...] | None = None
        """Of each sequence, how many tokens the first sweep brought; None before it."""
        self._declared: int | None = None
        self._is_broken = False

    @property
    def capacity(self) -> int:
        """Tokens per sequence that are reserved."""
        return self._layers[0].capacity

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens are in; during a sweep, how many will be after it."""
        if self._declared is not None:
            return self._declared
        return self._layers[layer_idx].length

    def reserve(self, capacity: int) -> None:
        """Make room for ``capacity`` tokens of each sequence."""
        for layer in self._layers:
            layer.reserve(capacity)

    @contextmanager
    def filling(self, tokens: int) -> Iterator[None]:
        """Declare ``tokens`` more before the layers hold them; undo it all if that fails."""
        if self._is_broken:
            raise AirLLMError(
                "this KV cache lost tokens in an interrupted sweep; begin with a new one"
            )
        before = self._layers[0].length
        self._declared = before + tokens
        try:
            yield
        except BaseException:
            self._undo(before)
            raise
        finally:
            self._declared = None

    def _undo(self, length: int) -> None:
        try:
            for layer in self._layers:
                layer.truncate(length)
        except AirLLMError:
            # a window moved on past what the earlier length needs
            self._is_broken = True

    def reset(self) -> None:
        """Forget everything and keep the memory."""
        super().reset()  # type: ignore[no-untyped-call]
        self.first_lengths = None
        self._is_broken = False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put sequence ``beam_idx[i]`` in the place of sequence ``i``."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._choose(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence ``repeats`` times."""
        super().batch_repeat_interleave(repeats)
        if self.first_lengths is not None:
            self._choose([i for i in range(len(self.first_lengths)) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences ``indices``, in that order."""
        super().batch_select_indices(indices)
        self._choose(indices.tolist())

    def _choose(self, sequences: Sequence[int]) -> None:
        if self.first_lengths is not None:
            self.first_lengths = tuple(self.first_lengths[index] for index in sequences)


class FleetingCache:
    """Keys and values of the one layer that is being run, for chunks of a prompt nobody keeps."""

    def __init__(self, windows: Sequence[int | None], capacity: int) -> None:
        """Hold up to ``capacity`` tokens of each sequence."""
        self._windows = windows
        self._capacity = capacity
        self._index = -1
        self._layer = KvLayer(0)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, G, T, D); what another layer left is forgotten."""
        return self._at(layer_idx).update(key_states, value_states)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many keys the next update returns, and the position of the first."""
        return self._at(layer_idx).get_mask_sizes(query_length)

    def _at(self, layer_idx: int) -> KvLayer:
        if layer_idx != self._index:
            self._layer = KvLayer(self._capacity, self._windows[layer_idx])
            self._index = layer_idx
        return self._layer
