"""Converted tiktoken ranks give tiktoken's ids and texts."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airllm_rs.errors import TokenizerError
from airllm_rs.tokenizer.tiktoken_ranks import read_ranks, tiktoken_bpe
from vocabularies import TEXTS, train_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from tiktoken import Encoding
    from tokenizers import Tokenizer

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Encoding]:
    path: Path = tmp_path_factory.mktemp("ranks") / "qwen.tiktoken"
    oracle = train_ranks(path, PATTERN, [])
    return tiktoken_bpe(read_ranks(path), {}, PATTERN), oracle


def same(pair: tuple[Tokenizer, Encoding], text: str) -> None:
    tokenizer, oracle = pair
    ids = tokenizer.encode(text).ids
    assert ids == oracle.encode_ordinary(unicodedata.normalize("NFC", text)), text
    assert tokenizer.decode(ids) == oracle.decode(ids)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_tiktokens(text: str, pair: tuple[Tokenizer, Encoding]) -> None:
    same(pair, text)


ALPHABETS = st.sampled_from(
    [
        "the sea ",
        "你好世界",
        " \r\n\t",
        "0123456789",
        "'sSTtreLl",
        "e\u0301\u0338€👩\u200d",
        "<|im_>",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(
        st.one_of(ALPHABETS.flatmap(lambda a: st.text(a, max_size=6)), st.text(max_size=3)),
        max_size=8,
    )
)
def test_any_text_has_tiktokens_ids(parts: list[str], pair: tuple[Tokenizer, Encoding]) -> None:
    same(pair, "".join(parts))


def test_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "qwen.tiktoken"
    train_ranks(path, PATTERN, [])
    ranks = read_ranks(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_ranks(path) == ranks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"IQ== ", b"I!Q= "), "line 34 is no token in base64"),
        ((b"IQ== ", b"IQ=="), "line 34 is no token in base64"),
        ((b"IQ== 33", b"IQ== x"), "line 34 is no token in base64"),
        ((b"IQ== 33\n", b"IQ== 34\n"), "the ranks are not 0 to 419"),
        ((b"IQ== 33\n", b"ISEh 33\n"), "does not have every byte"),
    ],
)
def test_what_is_no_rank_is_one_line(
    change: tuple[bytes, bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "qwen.tiktoken"
    train_ranks(path, PATTERN, [])
    content = path.read_bytes()
    assert change[0] in content
    path.write_bytes(content.replace(*change, 1))
    with pytest.raises(TokenizerError, match=message) as caught:
        read_ranks(path)
    assert "\n" not in str(caught.value)
