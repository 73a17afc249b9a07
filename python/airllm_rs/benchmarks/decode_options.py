"""How much `bench decode` generates; apart, so that a refusal need not wait for torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How much is generated."""

    tokens: int = 16
    """New tokens; the first ends the prefill."""
    prompt_tokens: int = 512
    rounds: int = 3

    def __post_init__(self) -> None:
        for name, value, least in (
            ("tokens", self.tokens, 2),
            ("prompt-tokens", self.prompt_tokens, 1),
            ("rounds", self.rounds, 1),
        ):
            if value < least:
                raise ValueError(f"--{name} is {value}: use {least} or more")
