"""The tokenizer of a GGUF file, converted by transformers when it is first asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.converted import source_identity
from airllm_rs.checkpoint.durable import locked, sync_directory
from airllm_rs.errors import CheckpointError, TokenizerError

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.source import Source
    from airllm_rs.checkpoint.model_files import ModelFiles

MODEL = "tokenizer.ggml.model"

_LAST = "tokenizer_config.json"


def has_tokenizer(source: Source) -> bool:
    """Tell whether the file has one; some are made for token ids only."""
    return source.metadata.get(MODEL) not in (None, "none", "no_vocab")


def tokenizer_directory(files: ModelFiles) -> Path:
    """Return the directory with the tokenizer of a model; that of a GGUF file is made now.

    If transformers cannot make one of what the file has, it is the directory that the file lies in,
    where that has the files of a tokenizer.

    Raises:
        TokenizerError: if there are none either.
        CheckpointError: if the file has changed since it was opened.
        OSError: if the directory cannot be written to.
    """
    directory = files.path
    if files.converts_tokenizer and not (directory / _LAST).exists():
        with locked(directory / ".tokenizer.lock"):
            if not (directory / _LAST).exists():
                parts = [Path(path) for path in files.files]
                beside = parts[0].parent
                try:
                    _convert(parts, directory)
                except TokenizerError as error:
                    if (beside / _LAST).exists():
                        return beside
                    raise TokenizerError(
                        f"{error}; put {_LAST} and the other tokenizer files of the original "
                        "checkpoint beside it, or give token ids"
                    ) from error
    return directory


def _convert(parts: list[Path], directory: Path) -> None:
    partial = directory / "tokenizer.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        written = convert_tokenizer(parts[0], partial)
        if not directory.name.endswith(source_identity(parts)):
            raise CheckpointError(f"{parts[0]} has changed since it was opened")
        for path in sorted(written, key=lambda path: path.name == _LAST):
            path.replace(directory / path.name)
        sync_directory(directory)
    finally:
        shutil.rmtree(partial)


def convert_tokenizer(source: Path, directory: Path) -> list[Path]:
    """Write tokenizer and chat template of a GGUF file to ``directory``; return what was written.

    Raises:
        TokenizerError: if transformers cannot make one of it.
    """
    # seconds of imports, which only a conversion has to wait for
    from transformers import AutoTokenizer

    # alone in a directory: beside it may lie a tokenizer.json, which transformers would prefer
    alone = directory / "source"
    alone.mkdir()
    (alone / "model.gguf").symlink_to(source.resolve())
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            alone, gguf_file="model.gguf", local_files_only=True, trust_remote_code=False
        )
        tokenizer.save_pretrained(directory)
    except Exception as error:  # the tokenizers package raises bare ones
        first = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise TokenizerError(f"{source}: its tokenizer cannot be converted: {first}") from error
    finally:
        shutil.rmtree(alone)
    written = [path for path in directory.iterdir() if path.is_file()]
    for path in written:
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    return written
