"""Token ids to text while they come, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# The bytes of a character that can be there without the last one.
_MOST_PENDING = 3
# Decoding begins at least so many tokens back: the text of a token depends on the one before it.
_WINDOW = 8


class Detokenizer:
    """Turns token ids into pieces of text that, joined, are the text of all of them.

    A token need not be a character: what ends within one is kept until the rest of it comes.
    Decoding begins a few tokens back, at the end of a whole character, so its cost does not grow
    with the text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._ids: list[int] = []
        self._shown = ""  # the text of `_ids`, as far as it was returned
        self._mark = 0  # tokens up to an earlier end of a character

    def add(self, token_id: int) -> str:
        """Take one more token and return the text that is certain by it, possibly none."""
        self._ids.append(int(token_id))
        text = self._text()
        new = text[self._returned(text) :]
        pending = min(len(new) - len(new.rstrip(_INCOMPLETE)), _MOST_PENDING)
        piece = new[: len(new) - pending]
        if piece:
            self._shown = text[: len(text) - pending]
        if not pending and len(self._ids) - self._mark >= _WINDOW:
            del self._ids[: self._mark]
            self._mark = len(self._ids)
            self._shown = self._text()
        return piece

    def finish(self) -> str:
        """Return what was kept back, with replacement characters where bytes are missing."""
        text = self._text()
        piece = text[self._returned(text) :]
        self._shown = text
        return piece

    def _returned(self, text: str) -> int:
        """Return how many characters of ``text`` stand for what was returned.

        Tokens that are bytes are decoded together: while the last character of several is
        incomplete, every byte of all of them is a replacement character.
        """
        if text.startswith(self._shown):
            return len(self._shown)
        pairs = zip(self._shown, text, strict=False)
        same = next((at for at, (old, new) in enumerate(pairs) if old != new), len(text))
        rest = self._shown[same:]
        return same + sum(1 if c == _INCOMPLETE else len(c.encode()) for c in rest)

    def _text(self) -> str:
        text = self._tokenizer.decode(
            self._ids, skip_special_tokens=self._skip, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str), "one sequence is one string"
        return text
