"""The tokenizer of a checkpoint, its chat template, and the tokens that end an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airllm_rs.config import token_ids
from airllm_rs.errors import TokenizerError
from airllm_rs.tokenizer.files import TokenizerFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "qwen.tiktoken",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in ``directory``, ready for batches of prompts.

    ``model_type`` in its config.json tells the families whose own tokenizers are remote code:
    theirs are made of their vocabulary files, and no code of the checkpoint is run. A missing
    padding token becomes the end token, and padding goes to the left, where it does not come
    between a prompt and its answer.

    Raises:
        TokenizerError: if there is none, or it cannot be read.
    """
    if not any((directory / name).exists() for name in FILES):
        raise TokenizerError(f"{directory} has no tokenizer (no {FILES[0]}, no {FILES[1]})")
    # seconds of imports, which runs on token ids need not wait for
    from airllm_rs.tokenizer.conversion import FAMILIES, convert

    files = TokenizerFiles(directory)
    try:
        tokenizer = convert(files) if files.model_type in FAMILIES else _auto(files)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().partition("\n")[0]
        raise TokenizerError(f"the tokenizer in {directory} cannot be read: {first}") from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _auto(files: TokenizerFiles) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    def load(kind: Any) -> PreTrainedTokenizerBase:  # noqa: ANN401 - a class or a factory of them
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(
            files.directory, local_files_only=True, trust_remote_code=False, padding_side="left"
        )
        return tokenizer

    try:
        return load(AutoTokenizer)
    except ValueError:
        # the class is remote code, but this file says all that it would do
        if not files.has_remote_class or not (files.directory / "tokenizer.json").exists():
            raise
        return load(PreTrainedTokenizerFast)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]
) -> list[int] | None:
    """Return the token ids that ask for an answer to a conversation.

    Returns None if the checkpoint has neither a chat template nor, for the families whose own code
    writes conversations, a chat format.

    Raises:
        TokenizerError: if template or format refuses the conversation.
    """
    from jinja2.exceptions import TemplateError

    from airllm_rs.tokenizer.converted import ConvertedTokenizer

    has_format = isinstance(tokenizer, ConvertedTokenizer) and tokenizer.chat_format is not None
    if not tokenizer.chat_template and not has_format:
        return None
    try:
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, return_dict=False
        )
    except TemplateError as error:
        raise TokenizerError(f"the chat template refuses the conversation: {error}") from error
    return list(ids)


def stop_ids(
    config: Iterable[int],
    generation_config: Mapping[str, object],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[int, ...]:
    """Return the tokens that end an answer, each once.

    Those of generation_config.json count, and those of config.json and of the tokenizer too: files
    of the same checkpoint often disagree, and a token that any of them calls the end is one. So do
    the tokens that end a turn in the chat format of a family whose tokenizer was remote code.
    """
    where = "generation_config.json: eos_token_id"
    ids = [*token_ids(generation_config.get("eos_token_id"), where), *config]
    if tokenizer is not None:
        from airllm_rs.tokenizer.converted import ConvertedTokenizer

        ids += token_ids(tokenizer.eos_token_id, "the tokenizer's eos_token_id")
        if isinstance(tokenizer, ConvertedTokenizer):
            ids += tokenizer.stop_token_ids
    return tuple(dict.fromkeys(ids))
