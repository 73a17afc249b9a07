"""The text of an answer while it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from airllm_rs.tokenizer import Detokenizer

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase


class TextStream:
    """An iterator over pieces of text; what it made so far can be read from it at any time.

    Dropping it, or `close`, ends the generation.

    Attributes:
        text: The pieces so far.
        token_ids: The new tokens so far, one that ended the answer included.
        prompt_tokens: Tokens of the prompt.
        finish_reason: ``"stop"`` or ``"length"`` once the answer is whole.
    """

    def __init__(
        self,
        tokens: Iterator[torch.Tensor],
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt_tokens: int,
        stop_ids: Collection[int],
        stops: Sequence[str] = (),
        seed: int | None = None,
    ) -> None:
        """Turn ``tokens`` into text.

        Args:
            tokens: New tokens of one sequence, each of shape (1,).
            tokenizer: The model's.
            prompt_tokens: Tokens of the prompt.
            stop_ids: Tokens that end the answer.
            stops: Strings that end it.
            seed: Where random numbers start; the global generator is left alone then.
        """
        self.text = ""
        self.token_ids: list[int] = []
        self.prompt_tokens = prompt_tokens
        self.finish_reason: str | None = None
        self._stop_ids = frozenset(stop_ids)
        self._stops = tuple(stops)
        self._pieces = self._run(_seeded(tokens, seed), Detokenizer(tokenizer))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End the generation."""
        self._pieces.close()

    def _run(
        self, tokens: Iterator[torch.Tensor], detokenizer: Detokenizer
    ) -> Generator[str, None, None]:
        pending = ""  # may be the beginning of a stop string
        for step in tokens:
            token = int(step[0])
            self.token_ids.append(token)
            if token in self._stop_ids:
                self.finish_reason = "stop"
                break
            pending += detokenizer.add(token)
            end = self._found(pending)
            if end is not None:
                self.finish_reason = "stop"
                yield from self._emit(pending[:end])
                return
            certain = len(pending) - self._overlap(pending)
            yield from self._emit(pending[:certain])
            pending = pending[certain:]
        else:
            self.finish_reason = "length"
        pending += detokenizer.finish()
        end = self._found(pending)
        yield from self._emit(pending if end is None else pending[:end])

    def _emit(self, piece: str) -> Iterator[str]:
        if piece:
            self.text += piece
            yield piece

    def _found(self, text: str) -> int | None:
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(places, default=None)

    def _overlap(self, text: str) -> int:
        """Return how much of the end of ``text`` may be the beginning of a stop string."""
        most = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), most, -1):
                if text.endswith(stop[:length]):
                    most = length
                    break
        return most


def _seeded(tokens: Iterator[torch.Tensor], seed: int | None) -> Iterator[torch.Tensor]:
    """Draw the random numbers of ``tokens`` from a seed, whatever happens between two of them."""
    if seed is None:
        yield from tokens
        return
    generator = torch.Generator().manual_seed(seed)
    while True:
        outside = torch.get_rng_state()
        torch.set_rng_state(generator.get_state())
        try:
            token = next(tokens, None)
            generator.set_state(torch.get_rng_state())
        finally:
            torch.set_rng_state(outside)
        if token is None:
            return
        yield token
