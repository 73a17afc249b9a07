"""A sentencepiece ``.model`` file: pieces, scores and how text is normalised."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from airllm_rs.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a space in a piece."""


class Kind(IntEnum):
    """What a piece is for, numbered as in sentencepiece_model.proto."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_KINDS = {kind.value: kind for kind in Kind}
_BPE = 2
_FLOAT = struct.Struct("<f")


class Piece(NamedTuple):
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class SentencePieceModel:
    """What encoding needs of a ModelProto, under the names of sentencepiece_model.proto."""

    pieces: tuple[Piece, ...]
    is_bpe: bool
    byte_fallback: bool
    treat_whitespace_as_suffix: bool
    unk_id: int
    bos_id: int
    """-1 if there is none, as for the next two."""
    eos_id: int
    pad_id: int
    precompiled_charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    def piece(self, token_id: int) -> str | None:
        """Return the text of a piece, None if there is no such id."""
        return self.pieces[token_id].text if 0 <= token_id < len(self.pieces) else None


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Return the model in a ``.model`` file.

    The file is a protocol buffer of three messages; reading their few fields here spares the
    packages ``protobuf`` and ``sentencepiece``.

    Raises:
        TokenizerError: if it is no such file.
        OSError: if it cannot be read.
    """
    content = path.read_bytes()
    try:
        return _model(content)
    except (LookupError, ValueError, TypeError, struct.error) as error:
        raise TokenizerError(f"{path} is no sentencepiece model: download it again") from error


def _model(content: bytes) -> SentencePieceModel:
    pieces = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for field, value in _fields(content):
        if field == 1:
            pieces.append(_piece(_bytes(value)))
        elif field == 2:
            trainer = dict(_fields(_bytes(value)))
        elif field == 3:
            normalizer = dict(_fields(_bytes(value)))
    if not pieces:
        raise ValueError("no pieces")
    return SentencePieceModel(
        pieces=tuple(pieces),
        is_bpe=_int(trainer, 3, 1) == _BPE,
        byte_fallback=bool(_int(trainer, 35, 0)),
        treat_whitespace_as_suffix=bool(_int(trainer, 24, 0)),
        unk_id=_int(trainer, 40, 0),
        bos_id=_int(trainer, 41, 1),
        eos_id=_int(trainer, 42, 2),
        pad_id=_int(trainer, 43, -1),
        precompiled_charsmap=_bytes(normalizer.get(2, b"")),
        add_dummy_prefix=bool(_int(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_int(normalizer, 4, 1)),
        escape_whitespaces=bool(_int(normalizer, 5, 1)),
    )


def _piece(content: bytes) -> Piece:
    text, score, kind = b"", 0.0, 1
    for field, value in _fields(content):
        if field == 1:
            text = _bytes(value)
        elif field == 2:
            (score,) = _FLOAT.unpack(_bytes(value))
        elif field == 3 and isinstance(value, int):
            kind = value
    return Piece(text.decode(), score, _KINDS[kind])


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Return number and value of each field: a number, or bytes of any fixed or given length."""
    at = 0
    while at < len(content):
        key = content[at]
        at += 1
        if key >= 0x80:  # a call for each of half a million fields would take as long as the rest
            key, at = _varint(content, at - 1)
        wire = key & 7
        if wire == 0:
            number, at = _varint(content, at)
            yield key >> 3, number
            continue
        if wire == 2:
            length = content[at]
            at += 1
            if length >= 0x80:
                length, at = _varint(content, at - 1)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError("unknown wire type")
        if length > len(content) - at:
            raise ValueError("a field ends after the file")
        yield key >> 3, content[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number is too long")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where bytes belong")
    return value


def _int(fields: dict[int, int | bytes], field: int, default: int) -> int:
    value = fields.get(field, default)
    if isinstance(value, bytes):
        raise TypeError("bytes where a number belongs")
    # negative numbers are written as 64-bit two's complement
    return value - (1 << 64) if value >> 63 == 1 else value
