"""Chunks of a prompt through transformers' layers, one layer after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from airllm_rs.families.bridged import RECORDED_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from airllm_rs.models.bridge.caches import FollowingCache
    from airllm_rs.models.bridge.conducting import Conductor
    from airllm_rs.weights.source import WeightSource

    Call = tuple[tuple[object, ...], dict[str, object]]


class _Enough(BaseException):
    """Ends a forward when its last layer was called; no ``except Exception`` may hold it up."""


@dataclass
class Recording:
    """What the layers would have been called with for one chunk."""

    start: int
    """Position of its first token in the cached sequence."""
    tokens: int
    hidden: Tensor
    """(B, t, hidden), on its way through the layers."""
    calls: list[Call] = field(default_factory=list)


class Replay:
    """Runs the layers of a model in another order than its forward would.

    Between layers that forward does nothing: this was seen when it was traced.
    """

    def __init__(
        self, conductor: Conductor, layers: Sequence[nn.Module], *, is_tuple: bool
    ) -> None:
        """Run ``layers``, whose every call is ``conductor``'s.

        Args:
            conductor: Of the layers.
            layers: In order.
            is_tuple: Whether they return a tuple with the hidden states in front.
        """
        self._conductor = conductor
        self._layers = layers
        self._is_tuple = is_tuple

    def record(
        self, forward: Callable[[], object], cache: FollowingCache, start: int, tokens: int
    ) -> Recording:
        """Run ``forward`` for one chunk up to its layers, and return what they were given."""
        last = len(self._layers) - 1
        found: list[Call] = []
        hidden: list[Tensor] = []

        def note(
            index: int,
            _forward: Callable[..., object],
            arguments: tuple[object, ...],
            keywords: dict[str, object],
        ) -> object:
            states = arguments[0] if arguments else keywords["hidden_states"]
            assert isinstance(states, torch.Tensor)
            if not hidden:
                hidden.append(states)
            # the states are the chunk's own, and change
            rest = {k: v for k, v in keywords.items() if k != "hidden_states"}
            found.append((arguments[1:], rest))
            if index == last:
                raise _Enough
            return self._returned(states)

        before = self._conductor.handler
        self._conductor.handler = note
        try:
            with cache.at(start):
                forward()
        except _Enough:
            pass
        finally:
            self._conductor.handler = before
        return Recording(start, tokens, hidden[0], found)

    def run(
        self,
        recordings: Sequence[Recording],
        cache: FollowingCache,
        weights: WeightSource,
        around: Callable[[int], Callable[[], None]],
    ) -> None:
        """Pass all chunks through one layer after the other.

        Args:
            recordings: The chunks, in order; their hidden states become the last layer's.
            cache: Takes their keys and values.
            weights: Where matrices come from.
            around: Called with the index before a layer; what it returns is called after it.
        """
        before = self._conductor.handler
        self._conductor.handler = lambda _index, forward, given, named: forward(*given, **named)
        try:
            for index, layer in enumerate(self._layers):
                done = around(index)
                try:
                    with weights.hold():
                        for chunk in recordings:
                            given, named = chunk.calls[index]
                            with cache.at(chunk.start, chunk.tokens, index):
                                made = layer(chunk.hidden, *given, **named)
                            chunk.hidden = made[0] if self._is_tuple else made
                finally:
                    done()
        finally:
            self._conductor.handler = before

    def end(self, forward: Callable[[], object], hidden: Tensor) -> object:
        """Return what ``forward`` makes of ``hidden`` (B, t, hidden) as its layers' result."""
        before = self._conductor.handler
        self._conductor.handler = lambda *_: self._returned(hidden)
        try:
            return forward()
        finally:
            self._conductor.handler = before

    def _returned(self, hidden: Tensor) -> object:
        return (hidden, None) if self._is_tuple else hidden


def is_full(recordings: Sequence[Recording]) -> bool:
    """Tell whether masks and the like of so many chunks take as much as they are planned to."""
    seen: dict[int, int] = {}
    for recording in recordings:
        for given, named in recording.calls:
            for value in (*given, *named.values()):
                for part in value if isinstance(value, tuple) else (value,):
                    if isinstance(part, torch.Tensor):
                        storage = part.untyped_storage()
                        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values()) > RECORDED_BYTES
