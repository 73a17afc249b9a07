"""The tokenizer of a checkpoint, its chat template, and the tokens that end an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import token_ids
from airllm_rs.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in ``directory``, ready for batches of prompts.

    A missing padding token becomes the end token, and padding goes to the left, where it does not
    come between a prompt and its answer.

    Raises:
        TokenizerError: if there is none, or it cannot be read.
    """
    if not any((directory / name).exists() for name in FILES):
        raise TokenizerError(f"{directory} has no tokenizer (no {FILES[0]}, no {FILES[1]})")
    # seconds of imports, which runs on token ids need not wait for
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, padding_side="left"
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().partition("\n")[0]
        raise TokenizerError(f"the tokenizer in {directory} cannot be read: {first}") from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]
) -> str | None:
    """Return the prompt that the checkpoint's chat template makes of a conversation.

    Returns None if there is no template. Encode the prompt with ``add_special_tokens=False``: the
    template has put them in.

    Raises:
        TokenizerError: if the template refuses the conversation.
    """
    if not tokenizer.chat_template:
        return None
    from jinja2.exceptions import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise TokenizerError(f"the chat template refuses the conversation: {error}") from error
    assert isinstance(text, str), "one conversation that is not tokenised is a string"
    return text


def stop_ids(
    config: Iterable[int],
    generation_config: Mapping[str, object],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[int, ...]:
    """Return the tokens that end an answer, each once.

    Those of generation_config.json count, and those of config.json and of the tokenizer too: files
    of the same checkpoint often disagree, and a token that any of them calls the end is one.
    """
    where = "generation_config.json: eos_token_id"
    ids = [*token_ids(generation_config.get("eos_token_id"), where), *config]
    if tokenizer is not None:
        ids += token_ids(tokenizer.eos_token_id, "the tokenizer's eos_token_id")
    return tuple(dict.fromkeys(ids))
