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
        self._shown = 0  # characters of the text of `_ids` that were returned
        self._mark = 0  # tokens up to an earlier end of a character

    def add(self, token_id: int) -> str:
        """Take one more token and return the text that is certain by it, possibly none."""
        self._ids.append(int(token_id))
        text = self._text()
        pending = min(len(text) - len(text.rstrip(_INCOMPLETE)), _MOST_PENDING)
        piece = text[self._shown : len(text) - pending]
        self._shown += len(piece)
        if not pending and len(self._ids) - self._mark >= _WINDOW:
            del self._ids[: self._mark]
            self._mark = len(self._ids)
            self._shown = len(self._text())
        return piece

    def finish(self) -> str:
        """Return what was kept back, with replacement characters where bytes are missing."""
        text = self._text()
        piece = text[self._shown :]
        self._shown = len(text)
        return piece

    def _text(self) -> str:
        text = self._tokenizer.decode(
            self._ids, skip_special_tokens=self._skip, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str), "one sequence is one string"
        return text
