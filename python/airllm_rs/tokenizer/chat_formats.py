"""Conversations as texts and token ids: the formats of families whose own code made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airllm_rs.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Message = Mapping[str, object]

Part = str | int
"""A token id, or a text that is encoded on its own: no token of a role can come of it."""


@dataclass(frozen=True)
class Turn:
    """A message: what it is, and what ends it."""

    parts: tuple[Part, ...]
    end: tuple[Part, ...] = ()


class ChatFormat(Protocol):
    """How a family writes conversations."""

    answer: tuple[Part, ...]
    """What an answer begins with."""
    is_one_text: bool
    """Whether texts beside each other are one text."""

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Return the turns of a conversation, what a prompt begins with in the first.

        Raises:
            TokenizerError: if the format cannot express it.
        """


def conversation_parts(
    chat: ChatFormat,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> list[Part]:
    """Return the parts of a conversation, in order.

    Args:
        chat: The format.
        messages: With ``role`` and ``content`` each.
        add_generation_prompt: End with what an answer begins with.
        continue_final_message: Leave out what ends the last message.

    Raises:
        TokenizerError: if the format cannot express it.
    """
    if not messages:
        raise TokenizerError("the conversation has no message")
    turns = chat.turns(messages)
    parts = [part for turn in turns for part in (*turn.parts, *turn.end)]
    if continue_final_message and turns[-1].end:
        del parts[-len(turns[-1].end) :]
    if add_generation_prompt:
        parts += chat.answer
    return _joined(parts) if chat.is_one_text else parts


def _joined(parts: Sequence[Part]) -> list[Part]:
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(last, str) and isinstance(part, str):
            joined[-1] = last + part
        else:
            joined.append(part)
    return joined


class ChatGLM3:
    """``<|role|>``, metadata and a line break, the content; nothing ends a message."""

    is_one_text = False

    _ROLES = ("system", "user", "assistant", "observation")

    def __init__(self, token: Callable[[str], int]) -> None:
        self._begin = (token("[gMASK]"), token("sop"))
        self._roles = {role: token(f"<|{role}|>") for role in self._ROLES}
        self.answer: tuple[Part, ...] = (self._roles["assistant"],)

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Return the turns; ``metadata`` of a message and ``tools`` of a system message count."""
        found = [self._turn(message) for message in messages]
        return [Turn((*self._begin, *found[0].parts)), *found[1:]]

    def _turn(self, message: Message) -> Turn:
        role, content = _message(message, self._ROLES)
        if role == "system" and message.get("tools"):
            content += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
        metadata = message.get("metadata") or ""
        return Turn((self._roles[role], f"{metadata}\n", content))


_COLON = "\N{FULLWIDTH COLON}"


class ChatGLM2:
    """Numbered rounds of question and answer, all of it one text."""

    answer: tuple[Part, ...] = (f"答{_COLON}",)
    is_one_text = True

    def __init__(self, token: Callable[[str], int]) -> None:
        self._begin = (token("[gMASK]"), token("sop"))

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Return the turns of alternating questions and answers."""
        found = []
        for index, message in enumerate(messages):
            _, content = _message(message, (("user", "assistant")[index % 2],))
            if index % 2:
                found.append(Turn((f"答{_COLON}{content}",), ("\n\n",)))
            else:
                found.append(Turn((f"[Round {index // 2 + 1}]\n\n问{_COLON}{content}",), ("\n\n",)))
        return [Turn((*self._begin, *found[0].parts), found[0].end), *found[1:]]


class QWen:
    """ChatML, with QWen's own system message where there is none."""

    is_one_text = False

    _SYSTEM = "You are a helpful assistant."

    def __init__(self, token: Callable[[str], int]) -> None:
        self._start = token("<|im_start|>")
        self._end = (token("<|im_end|>"), "\n")
        self.answer: tuple[Part, ...] = (self._start, "assistant", "\n")

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Return the turns."""
        if messages[0].get("role") != "system":
            messages = [{"role": "system", "content": self._SYSTEM}, *messages]
        return [self._turn(message) for message in messages]

    def _turn(self, message: Message) -> Turn:
        role, content = _message(message, ("system", "user", "assistant"))
        return Turn((self._start, role, "\n", content), self._end)


class Baichuan:
    """The system message as it is, then a token before each question and each answer."""

    is_one_text = False

    def __init__(self, user: int, assistant: int) -> None:
        self._roles: dict[str, tuple[Part, ...]] = {
            "system": (),
            "user": (user,),
            "assistant": (assistant,),
        }
        self.answer: tuple[Part, ...] = (assistant,)

    def turns(self, messages: Sequence[Message]) -> list[Turn]:
        """Return the turns; only the first can be the system's."""
        found = []
        for index, message in enumerate(messages):
            known = ("user", "assistant") if index else ("system", "user", "assistant")
            role, content = _message(message, known)
            found.append(Turn((*self._roles[role], content)))
        return found


def _message(message: Message, roles: Sequence[str]) -> tuple[str, str]:
    """Return role and content of a message, whose role has to be one of ``roles``."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in roles:
        expected = " or ".join(map(repr, roles))
        raise TokenizerError(f"the chat format has no place here for {role!r}: use {expected}")
    if not isinstance(content, str):
        raise TokenizerError(f"the content of a message is {content!r}: use a text")
    return role, content
