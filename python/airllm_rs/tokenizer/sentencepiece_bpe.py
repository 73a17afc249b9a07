"""A sentencepiece BPE model as a tokenizer of the ``tokenizers`` package, with the same ids."""

from __future__ import annotations

import re
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from airllm_rs.tokenizer.sentencepiece_model import SPACE, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.tokenizer.sentencepiece_model import SentencePieceModel

_ALL = 1 << 20  # more spaces than begin any text


def sentencepiece_bpe(
    model: SentencePieceModel, names: Mapping[int, str] = MappingProxyType({})
) -> Tokenizer:
    """Return a tokenizer that encodes as sentencepiece does.

    Control pieces in a text are matched, and each part between two of them is encoded on its own,
    as tokenizers of transformers do that call sentencepiece; ``encode_special_tokens`` makes the
    result take them for text, as sentencepiece itself does.

    Not as in sentencepiece: a character that has no piece of its own does not take part in a
    longer one; an unused piece takes part in none; a text that is exactly one user-defined piece
    gets no dummy prefix; a model that normalises characters does so by graphemes, of which CR LF
    is one.

    Args:
        model: A BPE model that treats white space as a prefix.
        names: Names of ids: those of pieces that were renamed, and of tokens after the last piece.
    """
    vocab = _vocabulary(model, names)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(model, vocab),
            unk_token=model.piece(model.unk_id),
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    )
    defined = [
        piece.text
        for token_id, piece in enumerate(model.pieces)
        if piece.kind is Kind.USER_DEFINED and token_id not in names
    ]
    normalizer = _normalizer(model, defined)
    tokenizer.normalizer = normalizer
    tokenizer.decoder = _decoder(model)
    tokenizer.add_tokens([_user_defined(text, normalizer) for text in defined])
    tokenizer.add_special_tokens(
        [
            AddedToken(piece.text, normalized=False, special=True)
            for token_id, piece in enumerate(model.pieces)
            if piece.kind is Kind.CONTROL and token_id not in names
        ]
    )
    return tokenizer


def _vocabulary(model: SentencePieceModel, names: Mapping[int, str]) -> dict[str, int]:
    kept = {
        piece.text: token_id for token_id, piece in enumerate(model.pieces) if token_id not in names
    }
    return kept | {name: token_id for token_id, name in names.items()}


def _merges(model: SentencePieceModel, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return every pair that makes a piece, in the order in which sentencepiece would join them."""
    scores = {
        piece.text: piece.score
        for token_id, piece in enumerate(model.pieces)
        if piece.kind is Kind.NORMAL and vocab.get(piece.text) == token_id
    }
    ranked = [
        (-score, vocab[text], left, right)
        for text, score in scores.items()
        for at in range(1, len(text))
        if (left := text[:at]) in scores and (right := text[at:]) in scores
    ]
    ranked.sort(key=itemgetter(0, 1))
    return [(left, right) for _, _, left, right in ranked]


def _normalizer(model: SentencePieceModel, defined: list[str]) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.precompiled_charsmap:
        steps.append(normalizers.Precompiled(model.precompiled_charsmap))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.add_dummy_prefix:
        # the names of added tokens are normalised too, and those must not get a prefix
        others = f"(?!(?:{'|'.join(map(re.escape, defined))})\\z)" if defined else ""
        steps.append(normalizers.Replace(Regex(rf"\A(?!\z){others}"), SPACE))
    if model.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _user_defined(text: str, normalizer: normalizers.Normalizer) -> AddedToken:
    """Return a piece that is never split and never joined.

    It is looked for after normalisation, where it does not cut a text into parts with a dummy
    prefix each, unless normalisation would change it.
    """
    is_kept = normalizer.normalize_str(text) == text
    return AddedToken(text, normalized=is_kept, special=False)


def _decoder(model: SentencePieceModel) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if model.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if model.add_dummy_prefix or model.remove_extra_whitespaces:
        most = _ALL if model.remove_extra_whitespaces else 1
        steps.append(decoders.Strip(" ", most, 0))
    return decoders.Sequence(steps)
