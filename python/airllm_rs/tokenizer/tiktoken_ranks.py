"""A file of tiktoken ranks as a tokenizer of the ``tokenizers`` package, with the same ids."""

from __future__ import annotations

import binascii
from base64 import b64decode
from operator import itemgetter
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from airllm_rs.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_ranks(path: Path) -> dict[bytes, int]:
    """Return the rank of each token: its id, and how early it is made of two others.

    Raises:
        TokenizerError: for the first line that is not a token in base64 and its rank.
        OSError: if the file cannot be read.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise TokenizerError(
                f"{path}: line {number} is no token in base64 and its rank: download it again"
            ) from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise TokenizerError(f"{path}: the ranks are not 0 to {len(ranks) - 1}: download it again")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise TokenizerError(f"{path} does not have every byte: download it again")
    return ranks


def tiktoken_bpe(ranks: Mapping[bytes, int], names: Mapping[int, str], pattern: str) -> Tokenizer:
    """Return a tokenizer that encodes as tiktoken does, after NFC normalisation.

    Args:
        ranks: As `read_ranks` returns them.
        names: Names of the ids after the ranks.
        pattern: The regular expression that cuts a text into parts.
    """
    characters = _byte_characters()
    spelled = {token: "".join(characters[byte] for byte in token) for token in ranks}
    pairs = [
        (rank, ranks[left], left, right)
        for token, rank in ranks.items()
        for at in range(1, len(token))
        if (left := token[:at]) in ranks and (right := token[at:]) in ranks
    ]
    pairs.sort(key=itemgetter(0, 1))
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab | {name: token_id for token_id, name in names.items()},
            merges=[(spelled[left], spelled[right]) for _, _, left, right in pairs],
            # tiktoken looks a part up before it joins anything
            ignore_merges=True,
        )
    )
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_characters() -> dict[int, str]:
    """Return the character that stands for each byte in byte-level vocabularies, as in GPT-2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(0x100 + index) for index, byte in enumerate(others)
    }
