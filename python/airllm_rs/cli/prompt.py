"""The prompt: where it comes from, and how many tokens it may become."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE_TOKENS = 128
"""Room for what a chat template adds."""
# A shorter prompt is counted as if each byte were a token: no tokenizer makes more of them.
_COUNTED_FROM = 2 << 10


def read_prompt(given: str | None) -> str:
    """Return the prompt that was given; without one, or for ``-``, what stdin holds.

    Its last newline is left out.

    Raises:
        ValueError: if there is none, or it is no text.
    """
    if given is None or given == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError("no prompt: give one after MODEL, or pipe it in")
        given = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").removesuffix("\n")
        if not given:
            raise ValueError("no prompt: stdin is empty")
    if any("\ud800" <= character <= "\udfff" for character in given):
        raise ValueError("the prompt is not UTF-8")
    return given


def most_tokens(directory: Path, texts: list[str]) -> int:
    """Return an upper bound of the tokens in ``texts``, what a chat template adds included."""
    tokens = TEMPLATE_TOKENS
    for text in texts:
        nbytes = len(text.encode())
        tokens += nbytes if nbytes < _COUNTED_FROM else _count(directory, text, nbytes)
    return tokens


def _count(directory: Path, text: str, otherwise: int) -> int:
    path = directory / "tokenizer.json"
    if not path.exists():
        return otherwise
    # only long prompts are worth its tenth of a second
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # noqa: BLE001 - it raises nothing narrower; the model's own reader will say
        return otherwise
    tokenizer.no_truncation()
    return len(tokenizer.encode(text))
