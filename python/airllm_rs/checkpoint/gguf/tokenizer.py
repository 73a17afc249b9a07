"""The tokenizer of a GGUF file, converted by transformers."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from airllm_rs.errors import TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

    from airllm_rs.checkpoint.gguf.source import Source

MODEL = "tokenizer.ggml.model"


def has_tokenizer(source: Source) -> bool:
    """Tell whether the file has one; some are made for token ids only."""
    return source.metadata.get(MODEL) not in (None, "none", "no_vocab")


def convert_tokenizer(source: Path, directory: Path) -> None:
    """Write tokenizer and chat template of a GGUF file to ``directory``.

    Raises:
        TokenizerError: if transformers cannot make one of it.
    """
    # seconds of imports, which only a conversion has to wait for
    from transformers import AutoTokenizer

    # alone in a directory: beside it may lie a tokenizer.json, which transformers would prefer
    alone = directory / "source"
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    (alone / "model.gguf").symlink_to(source.resolve())
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            alone, gguf_file="model.gguf", local_files_only=True, trust_remote_code=False
        )
        written = tokenizer.save_pretrained(directory)
    except Exception as error:  # the tokenizers package raises bare ones
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TokenizerError(f"{source}: its tokenizer cannot be converted: {first}") from error
    finally:
        shutil.rmtree(alone)
    for path in map(directory.joinpath, written):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
