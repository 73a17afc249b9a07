"""Tokenizers come ready for batches, and text comes as it is certain."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from airllm_rs.errors import ConfigError, TokenizerError
from airllm_rs.tokenizer import Detokenizer, encode_chat, load_tokenizer, stop_ids

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_level() -> Tokenizer:
    """Return a tokenizer whose tokens are bytes, some pairs that split characters, and specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    euro = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("€")[0][0]
    merges = [(euro[0], euro[1]), (euro[2], euro[0])]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def spaced() -> Tokenizer:
    """Return a tokenizer whose words carry their space, and with single bytes to fall back to."""
    words = ["▁Hello", "▁world", "!", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={w: i for i, w in enumerate(words)},
            merges=[],
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    return tokenizer


def wrapped(tokenizer: Tokenizer, **settings: object) -> PreTrainedTokenizerBase:
    fast: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, **settings
    )
    return fast


def saved(path: Path, **settings: object) -> Path:
    wrapped(byte_level(), eos_token="</s>", **settings).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bytes_tokenizer() -> PreTrainedTokenizerBase:
    return wrapped(byte_level(), eos_token="</s>")


def test_a_missing_pad_token_becomes_the_end_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path))
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert tokenizer.padding_side == "left"
    batch = tokenizer(["a", "abc"], padding=True)
    assert [list(mask) for mask in batch["attention_mask"]] == [[0, 0, 1], [1, 1, 1]]


def test_a_pad_token_is_kept(tmp_path: Path) -> None:
    assert load_tokenizer(saved(tmp_path, pad_token="<s>")).pad_token == "<s>"


def test_no_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_chat_is_encoded_for_an_answer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path))
    messages = [{"role": "user", "content": "hi"}]
    assert encode_chat(tokenizer, messages) is None
    tokenizer.chat_template = TEMPLATE
    want = tokenizer("<user>hi</s><assistant>", add_special_tokens=False)["input_ids"]
    assert encode_chat(tokenizer, messages) == want
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TokenizerError, match="roles must alternate"):
        encode_chat(tokenizer, messages)


def test_any_file_can_name_the_end(bytes_tokenizer: PreTrainedTokenizerBase) -> None:
    end = bytes_tokenizer.eos_token_id
    assert stop_ids((), {}) == ()
    assert stop_ids((7,), {"eos_token_id": [9, 7]}) == (9, 7)
    assert stop_ids((7,), {"eos_token_id": 9}, bytes_tokenizer) == (9, 7, end)
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        stop_ids((), {"eos_token_id": "</s>"})


def pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    return [*(detokenizer.add(token) for token in ids), detokenizer.finish()]


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_pieces_are_the_text(text: str) -> None:
    tokenizer = wrapped(byte_level(), eos_token="</s>")
    ids = tokenizer.encode(text)
    found = pieces(tokenizer, ids)
    assert "".join(found) == text
    assert found[-1] == "" or text.endswith("\N{REPLACEMENT CHARACTER}")


@settings(max_examples=200)
@given(st.lists(st.integers(0, 259), max_size=40), st.booleans())
def test_any_tokens_give_the_text_of_all(ids: list[int], skip: bool) -> None:
    tokenizer = wrapped(byte_level(), eos_token="</s>")
    whole = tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    assert "".join(pieces(tokenizer, ids, skip=skip)) == whole


def test_characters_never_come_in_parts(bytes_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = bytes_tokenizer.encode("€€€€€€€€€€ 🦀!")
    assert len(ids) > 20, "tokens split characters"
    found = pieces(bytes_tokenizer, ids)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(found)
    assert len([piece for piece in found if piece]) > 10, "text comes as it is certain"


def test_what_never_completes_comes_at_the_end(bytes_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = bytes_tokenizer.encode("a€")[:-1]
    assert pieces(bytes_tokenizer, ids) == ["a", "", "\N{REPLACEMENT CHARACTER}"]


def test_spaces_between_words_are_kept() -> None:
    tokenizer = wrapped(spaced())
    ids = [0, 1, 2] * 12
    assert pieces(tokenizer, ids)[:4] == ["Hello", " world", "!", " Hello"]
    assert "".join(pieces(tokenizer, ids)) == " ".join(["Hello world!"] * 12)
    crab = [4 + byte for byte in "🦀".encode()]
    assert pieces(tokenizer, [0, *crab, 2]) == ["Hello", "", "", "", "🦀", "!", ""]
    wave = [4 + byte for byte in "👋🏽🌊".encode()]
    assert [piece for piece in pieces(tokenizer, [0, *wave, 2]) if piece] == [
        "Hello", "👋", "🏽", "🌊", "!",
    ]  # fmt: skip
    broken = pieces(tokenizer, [0, *crab, *crab[:2], 2, 1])
    assert "".join(broken) == "Hello🦀\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}! world"
