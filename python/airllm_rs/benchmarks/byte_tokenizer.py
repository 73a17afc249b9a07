"""A tokenizer whose tokens are bytes: any text goes in, any token comes out as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.durable import write_json

if TYPE_CHECKING:
    from pathlib import Path

BYTES = 256


def write_byte_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write tokenizer.json and tokenizer_config.json; no token ends a text.

    Ids from 256 on are never made of text; as text they are ``<256>``, ``<257>``, ….
    """
    assert vocab_size >= BYTES, "checked with the shape"
    tokens = [*byte_characters(), *(f"<{n}>" for n in range(BYTES, vocab_size))]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    content: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": [],
        },
    }
    write_json(directory / "tokenizer.json", content)
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**9,
            # said out loud: transformers gives some families an end token of its own otherwise
            "bos_token": None,
            "eos_token": None,
            "pad_token": None,
            "unk_token": None,
        },
    )


def byte_characters() -> list[str]:
    """Return the characters that stand for bytes in a byte-level vocabulary, byte 0 first.

    Printable bytes stand for themselves; the others are shifted beyond Latin-1, as GPT-2 did.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    shifted = iter(range(BYTES, 2 * BYTES))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(BYTES)]
