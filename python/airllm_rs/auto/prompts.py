"""Prompts and sampling as people say them, in the words of `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs.errors import TokenizerError
from airllm_rs.tokenizer import encode_chat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

MAX_NEW_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; None means what generation_config.json says."""

    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float | None = None
    """0 for greedy decoding."""
    top_p: float | None = None
    top_k: int | None = None
    """0 for all."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    """The same seed makes the same tokens."""
    stop: str | Sequence[str] = ()
    """Strings that end the answer; they are no part of it."""

    def __post_init__(self) -> None:
        _within("max_new_tokens", self.max_new_tokens, 1)
        _within("temperature", self.temperature, 0)
        _within("top_p", self.top_p, 0, 1)
        _within("min_p", self.min_p, 0, 1)
        _within("top_k", self.top_k, 0)
        if self.repetition_penalty is not None and not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: use more than 0")
        if any(not text for text in self.stops):
            raise ValueError("a stop string is empty")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def keywords(self) -> dict[str, object]:
        """Return what was asked for as keywords of transformers' ``generate``."""
        found: dict[str, object] = {"max_new_tokens": self.max_new_tokens}
        if self.repetition_penalty is not None:
            found["repetition_penalty"] = self.repetition_penalty
        if self.temperature == 0:
            # what generation_config.json says of sampling would draw a warning
            return {
                **found,
                "do_sample": False,
                "temperature": None,
                "top_p": None,
                "top_k": None,
            }
        asked = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return found | given | ({"do_sample": True} if given else {})


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Mapping[str, str]],
    *,
    system: str | None,
    raw: bool,
) -> list[int]:
    """Return the token ids of a prompt.

    Args:
        tokenizer: The model's.
        prompt: A text, which a chat template makes a question of where there is one, or the
            messages of a conversation.
        system: What the conversation begins with.
        raw: Take the text as it is.

    Raises:
        TokenizerError: if a conversation has no template, or one that refuses it.
        ValueError: if nothing is left to run.
    """
    if raw and (system is not None or not isinstance(prompt, str)):
        raise ValueError("raw text has neither messages nor a system prompt")
    ids = None if raw else _chat(tokenizer, prompt, system)
    if ids is None:
        ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise ValueError("the prompt is empty")
    return list(ids)


def _chat(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Mapping[str, str]],
    system: str | None,
) -> list[int] | None:
    is_text = isinstance(prompt, str)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not messages:
        raise ValueError("the conversation has no message")
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    ids = encode_chat(tokenizer, messages)
    if ids is None and (not is_text or system is not None):
        raise TokenizerError(
            "the checkpoint has no chat template: give the prompt as one text, without system="
        )
    return ids


def _within(name: str, value: float | None, low: float, high: float | None = None) -> None:
    if value is None or (value >= low and (high is None or value <= high)):
        return
    allowed = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
    raise ValueError(f"{name} is {value}: use {allowed}")
