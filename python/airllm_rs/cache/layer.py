"""Keys and values of one layer, in memory reserved in advance."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from airllm_rs.errors import AirLLMError

SLACK_TOKENS = 256
"""Room of a window beyond what queries see: it is moved to the front once in so many tokens."""


class KvLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of shape (B, G, S, D), written in place.

    Memory is reserved for ``capacity`` tokens and taken by the kernel's leave only as it is filled.
    With a ``window``, no more than that many tokens and some slack are held. What is reserved never
    grows by itself: `reserve` is asked first.
    """

    is_compileable = False
    is_croppable = True

    def __init__(self, capacity: int, window: int | None = None) -> None:
        # the attributes of the base class are properties here
        self.capacity = capacity
        self.window = window
        self.is_sliding = window is not None
        self.is_initialized = False
        self.record_past = False
        self.length = 0
        self._first = 0  # position of the first token held
        self._settled = 0  # how long the sequences were at the last `crop`
        self._keys = torch.empty(0)
        self._values = torch.empty(0)

    @property
    def held(self) -> int:
        """How many tokens the layer holds."""
        return self.length - self._first

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        """The keys held, (B, G, S, D)."""
        return self._keys.narrow(2, 0, self.held) if self.is_initialized else None

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        """The values held, (B, G, S, D)."""
        return self._values.narrow(2, 0, self.held) if self.is_initialized else None

    @property
    def batch_size(self) -> int:
        """How many sequences are held, -1 before the first."""
        return self._keys.shape[0] if self.is_initialized else -1

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserve memory for sequences like those of ``key_states`` (B, G, T, D)."""
        room = self._room(key_states.shape[2])
        self._keys = _reserved(key_states, room)
        self._values = _reserved(value_states, room)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, G, T, D) and return those that the new queries may see."""
        tokens = key_states.shape[2]
        stop = self.length + tokens
        if stop > self.capacity:
            raise AirLLMError(
                f"the KV cache is reserved for {self.capacity} tokens, {stop} are needed"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.length - self._first
        if held + tokens > self._keys.shape[2]:
            held = self._make_room(tokens)
        self._keys.narrow(2, held, tokens).copy_(key_states)
        self._values.narrow(2, held, tokens).copy_(value_states)
        self.length = stop
        held += tokens
        seen = held if self.window is None else min(held, self.window - 1 + tokens)
        return (
            self._keys.narrow(2, held - seen, seen),
            self._values.narrow(2, held - seen, seen),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys the next update returns, and the position of the first."""
        total = self.held + query_length
        seen = total if self.window is None else min(total, self.window - 1 + query_length)
        return seen, self.length + query_length - seen

    def get_seq_length(self) -> int:
        """Return the number of tokens that went in."""
        return self.length

    def get_max_length(self) -> int:
        """Return the number of tokens that are reserved."""
        return self.capacity

    def activate_past_recording(self) -> None:
        """Drop nothing that `crop` may want back until `crop` was called."""
        self.record_past = True

    def reserve(self, capacity: int) -> None:
        """Make room for ``capacity`` tokens; what is held is copied."""
        if capacity <= self.capacity:
            return
        self.capacity = capacity
        if self.is_initialized and self.window is None:
            self._move(capacity)

    def truncate(self, length: int) -> None:
        """Forget all tokens from position ``length`` on."""
        if length >= self.length:
            return
        needed = 0 if self.window is None else max(length - self.window + 1, 0)
        if self._first > needed:
            raise AirLLMError(
                f"the KV cache holds tokens from {self._first} on; going back to {length} "
                f"needs them from {needed} on"
            )
        self.length = length

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last ``-tokens_to_remove`` tokens."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes minus the tokens to remove, not {tokens_to_remove}")
        self.truncate(max(self.length + tokens_to_remove, 0))
        self._settled = self.length

    def reset(self) -> None:
        """Forget everything and keep the memory."""
        self.length = 0
        self._first = 0
        self._settled = 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put sequence ``beam_idx[i]`` in the place of sequence ``i``."""
        if self.held:
            index = beam_idx.to(self._keys.device)
            for store in (self._keys, self._values):
                filled = store.narrow(2, 0, self.held)
                filled.copy_(filled.index_select(0, index))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence ``repeats`` times."""
        if self.is_initialized:
            index = torch.arange(self._keys.shape[0]).repeat_interleave(repeats)
            self.batch_select_indices(index)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences ``indices``, in that order."""
        if self.is_initialized:
            self._keys = self._selected(self._keys, indices)
            self._values = self._selected(self._values, indices)

    def _selected(self, store: Tensor, indices: Tensor) -> Tensor:
        filled = store.narrow(2, 0, self.held)[indices]
        chosen = _reserved(filled, store.shape[2])
        chosen.narrow(2, 0, self.held).copy_(filled)
        return chosen

    def _room(self, tokens: int) -> int:
        """Return how many tokens to hold at once if ``tokens`` are appended next."""
        if self.window is None:
            return self.capacity
        return min(self.capacity, self.window - 1 + tokens + SLACK_TOKENS)

    def _make_room(self, tokens: int) -> int:
        """Drop what no query will see again; return how many tokens are still held."""
        assert self.window is not None, "without a window the whole capacity is reserved"
        settled = self._settled if self.record_past else self.length
        kept = self.length - max(self._first, settled - self.window + 1)
        if kept + tokens > self._keys.shape[2]:
            self._move(kept + tokens + SLACK_TOKENS, kept)
        elif kept < self.held:
            start = self.held - kept
            for store in (self._keys, self._values):
                store.narrow(2, 0, kept).copy_(store.narrow(2, start, kept).clone())
        self._first = self.length - kept
        return kept

    def _move(self, room: int, kept: int | None = None) -> None:
        kept = self.held if kept is None else kept
        start = self.held - kept
        for name in ("_keys", "_values"):
            store: Tensor = self.__dict__[name]
            larger = _reserved(store, room)
            larger.narrow(2, 0, kept).copy_(store.narrow(2, start, kept))
            self.__dict__[name] = larger


def _reserved(like: Tensor, room: int) -> Tensor:
    # an inference tensor could not be written to by a later call outside of inference mode
    with torch.inference_mode(mode=False):
        return torch.empty(
            (like.shape[0], like.shape[1], room, like.shape[3]),
            dtype=like.dtype,
            device=like.device,
        )
