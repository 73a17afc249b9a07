"""Converted sentencepiece models give sentencepiece's ids and texts."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from airllm_rs.errors import TokenizerError
from airllm_rs.tokenizer.sentencepiece_bpe import sentencepiece_bpe
from airllm_rs.tokenizer.sentencepiece_model import Kind, read_sentencepiece
from vocabularies import CORPUS, TEXTS, edit_sentencepiece, read_proto, train_sentencepiece

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

DEFINED = ["<eoh>", "<eoa>", "▁▁▁▁", "<eo"]
MODELS: dict[str, dict[str, Any]] = {
    "InternLM's": {"user_defined_symbols": DEFINED[:2]},
    "ChatGLM's": {"add_dummy_prefix": True},
    "dummy prefix, defined pieces": {"add_dummy_prefix": True, "user_defined_symbols": DEFINED},
    "defined spaces": {"user_defined_symbols": DEFINED},
    "no bytes": {"byte_fallback": False, "character_coverage": 0.98},
    "no bytes, dummy prefix": {"byte_fallback": False, "add_dummy_prefix": True},
    "single spaces": {"remove_extra_whitespaces": True, "add_dummy_prefix": True},
    "nfkc": {"normalization_rule_name": "nmt_nfkc", "user_defined_symbols": ["①", "<eoh>"]},
    "digits apart": {"split_digits": True, "split_by_whitespace": False},
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, SentencePieceProcessor, Path]:
    path: Path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    oracle = train_sentencepiece(path, **MODELS[request.param])
    tokenizer = sentencepiece_bpe(read_sentencepiece(path))
    # sentencepiece itself never finds a control piece in a text
    tokenizer.encode_special_tokens = True
    return tokenizer, oracle, path


def test_the_file_is_read_as_protobuf_reads_it(
    pair: tuple[Tokenizer, SentencePieceProcessor, Path],
) -> None:
    path = pair[2]
    found = read_sentencepiece(path)
    proto = read_proto(path)
    assert [tuple(piece) for piece in found.pieces] == [
        (piece.piece, piece.score, piece.type) for piece in proto.pieces
    ]
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    assert found.is_bpe
    for name in ("byte_fallback", "unk_id", "bos_id", "eos_id", "pad_id"):
        assert getattr(found, name) == getattr(trainer, name)
    for name in (
        "precompiled_charsmap", "add_dummy_prefix", "remove_extra_whitespaces",
        "escape_whitespaces",
    ):  # fmt: skip
        assert getattr(found, name) == getattr(normalizer, name)


def test_ids_and_texts_are_sentencepieces(
    pair: tuple[Tokenizer, SentencePieceProcessor, Path],
) -> None:
    tokenizer, oracle, _ = pair
    for text in TEXTS:
        same(tokenizer, oracle, text)


ALPHABETS = st.sampled_from(
    [
        "the sea ",
        "你好世界海船",
        " \n\t",
        "0123456789",
        "<eoha>|",
        "é€👩\u200d①\uff46",
        "▁\u3000\u00a0",
    ]
)


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(ALPHABETS.flatmap(lambda a: st.text(a, max_size=6)), max_size=8))
def test_any_text_has_sentencepieces_ids(
    parts: list[str], pair: tuple[Tokenizer, SentencePieceProcessor, Path]
) -> None:
    tokenizer, oracle, _ = pair
    same(tokenizer, oracle, "".join(parts))


def same(tokenizer: Tokenizer, oracle: SentencePieceProcessor, text: str) -> None:
    if text.replace(" ", "▁") in DEFINED or "\r\n" in text:
        return  # differences that are documented
    ids = tokenizer.encode(text).ids
    assert ids == oracle.encode(text), (text, oracle.encode(text, out_type=str))
    unknown = oracle.unk_id()
    if unknown not in ids:
        assert tokenizer.decode(ids) == oracle.decode(ids), text


def test_parts_between_control_pieces_are_texts_of_their_own(tmp_path: Path) -> None:
    oracle = train_sentencepiece(tmp_path / "m.model", add_dummy_prefix=True)
    tokenizer = sentencepiece_bpe(read_sentencepiece(tmp_path / "m.model"))
    want = [*oracle.encode("Hello"), oracle.eos_id(), *oracle.encode("Hello")]
    assert tokenizer.encode("Hello</s>Hello").ids == want


def test_unused_pieces_are_never_made(tmp_path: Path) -> None:
    path = tmp_path / "m.model"
    oracle = train_sentencepiece(path)
    longest = max(range(oracle.get_piece_size()), key=lambda i: len(oracle.id_to_piece(i)))
    text = oracle.id_to_piece(longest).replace("▁", " ")
    assert longest in oracle.encode(text)
    oracle = edit_sentencepiece(path, kinds={longest: Kind.UNUSED}, names={})
    ids = sentencepiece_bpe(read_sentencepiece(path)).encode(text).ids
    assert longest not in ids
    assert ids == oracle.encode(text)


def test_scores_decide_not_ids(tmp_path: Path) -> None:
    path = tmp_path / "m.model"
    oracle = train_sentencepiece(path)
    proto = read_proto(path)
    normal = [piece for piece in proto.pieces if piece.type == Kind.NORMAL]
    for piece, score in zip(normal, reversed([p.score for p in normal]), strict=True):
        piece.score = score
    path.write_bytes(proto.SerializeToString())
    turned = SentencePieceProcessor(model_file=str(path))
    tokenizer = sentencepiece_bpe(read_sentencepiece(path))
    assert turned.encode(CORPUS) != oracle.encode(CORPUS)
    assert tokenizer.encode(CORPUS).ids == turned.encode(CORPUS)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.model"
    if not path.exists():
        train_sentencepiece(path)
        path.with_suffix(".whole").write_bytes(path.read_bytes())
    content = bytearray(path.with_suffix(".whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(TokenizerError):
        read_sentencepiece(path)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\xff" * 40, b"\x0a\x05ab", b"\x0a"])
def test_what_is_no_model_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match="no sentencepiece model") as caught:
        read_sentencepiece(path)
    assert "\n" not in str(caught.value)
