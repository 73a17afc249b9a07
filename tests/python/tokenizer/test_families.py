"""Families whose tokenizers are remote code: their ids, special tokens, chats and stop tokens."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from airllm_rs.auto.prompts import encode
from airllm_rs.errors import TokenizerError
from airllm_rs.tokenizer import Detokenizer, encode_chat, load_tokenizer, stop_ids
from airllm_rs.tokenizer.conversion import _GLM3_TEMPLATE, _QWEN_PATTERN
from airllm_rs.tokenizer.sentencepiece_model import Kind
from vocabularies import (
    TEXTS,
    edit_sentencepiece,
    train_ranks,
    train_sentencepiece,
    write_json,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sentencepiece import SentencePieceProcessor
    from tiktoken import Encoding
    from transformers import PreTrainedTokenizerBase

USER = {"role": "user", "content": "Hello <|user|><|im_end|>"}
ANSWER = {"role": "assistant", "content": "你好"}
SYSTEM = {"role": "system", "content": "The sea is wide."}
REMOTE = {"AutoTokenizer": ["tokenization_remote.RemoteTokenizer", None]}
QWEN_NAMES = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)),
]  # fmt: skip


def checkpoint(path: Path, model_type: str, **generation: object) -> Path:
    path.mkdir(exist_ok=True)
    write_json(
        path / "config.json", model_type=model_type, auto_map={"AutoConfig": "remote.Config"}
    )
    write_json(path / "generation_config.json", **generation)
    write_json(path / "tokenizer_config.json", tokenizer_class="RemoteTokenizer", auto_map=REMOTE)
    return path


def chatglm(path: Path, version: int) -> tuple[Path, SentencePieceProcessor]:
    checkpoint(path, "chatglm")
    name = f"THUDM/chatglm{version}-6b"
    write_json(path / "config.json", model_type="chatglm", _name_or_path=name)
    return path, train_sentencepiece(path / "tokenizer.model", add_dummy_prefix=True)


def streamed(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join([*(detokenizer.add(token) for token in ids), detokenizer.finish()])


def test_chatglm3_gives_every_text_to_sentencepiece(tmp_path: Path) -> None:
    path, oracle = chatglm(tmp_path / "m", 3)
    tokenizer = load_tokenizer(path)
    first = oracle.get_piece_size()
    names = [
        "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop",
        "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
    ]  # fmt: skip
    assert tokenizer.convert_tokens_to_ids(names) == [*range(first, first + 9)]
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == [first + 1, first + 3, *oracle.encode(text)]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    batch = tokenizer(["Hello", "Hello, the sea"], padding=True)
    short = [first + 1, first + 3, *oracle.encode("Hello")]
    padding = len(batch["input_ids"][1]) - len(short)
    assert batch["input_ids"][0] == [0] * padding + short
    assert batch["attention_mask"][0] == [0] * padding + [1] * len(short)
    assert stop_ids((), {}, tokenizer) == (2, first + 6, first + 8)


def test_chatglm3_roles_are_ids_and_never_text(tmp_path: Path) -> None:
    path, oracle = chatglm(tmp_path / "m", 3)
    tokenizer = load_tokenizer(path)
    first = oracle.get_piece_size()
    tools = {**SYSTEM, "tools": [{"name": "f"}]}
    noted = {**ANSWER, "metadata": "f"}
    want = [
        first + 1, first + 3,
        first + 5, *oracle.encode("\n"),
        *oracle.encode('The sea is wide.\n[\n    {\n        "name": "f"\n    }\n]'),
        first + 6, *oracle.encode("\n"), *oracle.encode(USER["content"]),
        first + 7, *oracle.encode("f\n"), *oracle.encode("你好"),
        first + 7,
    ]  # fmt: skip
    assert encode_chat(tokenizer, [tools, USER, noted]) == want  # type: ignore[list-item]
    assert encode(tokenizer, "Hello", system=None, raw=False) == [
        first + 1, first + 3, first + 6, *oracle.encode("\n"), *oracle.encode("Hello"), first + 7,
    ]  # fmt: skip
    assert encode(tokenizer, "Hello", system=None, raw=True) == tokenizer("Hello")["input_ids"]


def test_chatglm3s_published_template_is_its_format(tmp_path: Path) -> None:
    path, _ = chatglm(tmp_path / "m", 3)
    plain = load_tokenizer(path)
    added = {
        str(plain.convert_tokens_to_ids(name)): {"content": name, "special": True}
        for name in ("[gMASK]", "sop", "<|user|>", "<|assistant|>")
    }
    write_json(
        path / "tokenizer_config.json", chat_template=_GLM3_TEMPLATE, added_tokens_decoder=added
    )
    published = load_tokenizer(path)
    for messages in ([USER], [{"role": "user", "content": "philosophy"}, ANSWER, USER]):
        assert encode_chat(published, messages) == encode_chat(plain, messages)
    # in words it is the same, but for what looks like a token
    published.chat_template = _GLM3_TEMPLATE
    harmless = [{"role": "user", "content": "Hello"}, ANSWER, {"role": "user", "content": "sea"}]
    assert encode_chat(published, harmless) == encode_chat(plain, harmless)
    assert encode_chat(published, [USER]) != encode_chat(plain, [USER])
    write_json(path / "tokenizer_config.json", chat_template="{{ messages[0].content }}<|user|>")
    own = load_tokenizer(path)
    role = own.convert_tokens_to_ids("<|user|>")
    assert (encode_chat(own, [ANSWER]) or [])[-1] == role, "a template of the checkpoint's is used"


def test_chatglm2_writes_rounds_as_one_text(tmp_path: Path) -> None:
    path, oracle = chatglm(tmp_path / "m", 2)
    tokenizer = load_tokenizer(path)
    first = oracle.get_piece_size()
    assert tokenizer.convert_tokens_to_ids("<|user|>") == oracle.unk_id()
    ask, answer = "\u95ee\uff1a", "\u7b54\uff1a"
    text = f"[Round 1]\n\n{ask}Hello\n\n{answer}你好\n\n[Round 2]\n\n{ask}sea\n\n{answer}"
    messages = [{"role": "user", "content": "Hello"}, ANSWER, {"role": "user", "content": "sea"}]
    assert encode_chat(tokenizer, messages) == [first + 1, first + 3, *oracle.encode(text)]
    with pytest.raises(TokenizerError, match="no place here for 'system': use 'user'"):
        encode_chat(tokenizer, [SYSTEM, USER])
    assert stop_ids((), {}, tokenizer) == (2,)
    write_json(path / "config.json", model_type="chatglm", _name_or_path="THUDM/chatglm2-6b-base")
    assert encode_chat(load_tokenizer(path), messages) is None


def qwen(path: Path, **generation: object) -> tuple[Path, Encoding]:
    checkpoint(path, "qwen", **generation)
    return path, train_ranks(path / "qwen.tiktoken", _QWEN_PATTERN, QWEN_NAMES)


def test_qwen_finds_its_special_tokens_in_texts(tmp_path: Path) -> None:
    path, oracle = qwen(tmp_path / "m", chat_format="chatml")
    tokenizer = load_tokenizer(path)
    assert len(tokenizer) == oracle.n_vocab
    for text in (*TEXTS, "<|im_start|>user\nhi<|im_end|><|extra_204|>", "a<|endoftext|>\u0338"):
        normal = oracle.encode(
            text.replace("e\u0301", "é").replace(">\u0338", "≯"), allowed_special="all"
        )
        assert tokenizer(text)["input_ids"] == normal, text
    end = oracle.encode("<|endoftext|>", allowed_special="all")[0]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (end, end)
    assert stop_ids((), {}, tokenizer) == (end, end + 2)


def test_qwen_encodes_each_part_of_a_chat_without_special_tokens(tmp_path: Path) -> None:
    path, oracle = qwen(tmp_path / "m")
    tokenizer = load_tokenizer(path)
    start, end = (oracle.encode(f"<|im_{w}|>", allowed_special="all") for w in ("start", "end"))

    def turn(role: str, content: str) -> list[int]:
        text = [*oracle.encode_ordinary(role), *oracle.encode_ordinary("\n")]
        return [*start, *text, *oracle.encode_ordinary(content), *end, *oracle.encode("\n")]

    asked = [*start, *oracle.encode("assistant"), *oracle.encode("\n")]
    first = [*turn("system", "You are a helpful assistant."), *turn("user", USER["content"])]
    assert encode_chat(tokenizer, [USER]) == [*first, *asked]
    assert encode(tokenizer, "\n\nHello", system="The sea is wide.", raw=False) == [
        *turn("system", "The sea is wide."), *turn("user", "\n\nHello"), *asked,
    ]  # fmt: skip
    again = encode_chat(tokenizer, [SYSTEM, USER, ANSWER, USER])
    assert again == [
        *turn("system", "The sea is wide."), *turn("user", USER["content"]),
        *turn("assistant", "你好"), *turn("user", USER["content"]), *asked,
    ]  # fmt: skip
    with pytest.raises(TokenizerError, match="no place here for 'tool'"):
        encode_chat(tokenizer, [{"role": "tool", "content": "x"}])
    with pytest.raises(TokenizerError, match="use a text"):
        encode_chat(tokenizer, [{"role": "user", "content": [{"type": "image"}]}])  # type: ignore[dict-item]
    write_json(path / "generation_config.json", chat_format="raw")
    assert encode_chat(load_tokenizer(path), [USER]) is None


def baichuan(path: Path, **generation: object) -> tuple[Path, SentencePieceProcessor]:
    checkpoint(path, "baichuan", **generation)
    write_json(
        path / "tokenizer_config.json", add_bos_token=False, auto_map=REMOTE,
        bos_token={"__type": "AddedToken", "content": "<s>"}, pad_token={"content": "<unk>"},
    )  # fmt: skip
    return path, train_sentencepiece(path / "tokenizer.model")


def test_baichuan_puts_ids_before_turns(tmp_path: Path) -> None:
    path, oracle = baichuan(tmp_path / "m", user_token_id=300, assistant_token_id=301)
    tokenizer = load_tokenizer(path)
    for text in TEXTS:
        if "<s>" not in text:
            assert tokenizer(text)["input_ids"] == oracle.encode(text)
            assert tokenizer.decode(oracle.encode(text)) == oracle.decode(oracle.encode(text))
    assert encode_chat(tokenizer, [SYSTEM, USER, ANSWER, USER]) == [
        *oracle.encode("The sea is wide."), 300, *oracle.encode(USER["content"]),
        301, *oracle.encode("你好"), 300, *oracle.encode(USER["content"]), 301,
    ]  # fmt: skip
    assert tokenizer.pad_token_id == 0
    assert stop_ids((2,), {}, tokenizer) == (2,)
    with pytest.raises(TokenizerError, match="no place here for 'system'"):
        encode_chat(tokenizer, [USER, SYSTEM])
    write_json(path / "generation_config.json", user_token_id=9999, assistant_token_id=301)
    with pytest.raises(TokenizerError, match="the vocabulary has no id 9999"):
        load_tokenizer(path)
    write_json(path / "generation_config.json")
    assert encode_chat(load_tokenizer(path), [USER]) is None, "a base model"


def test_internlm_chats_in_one_text(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "internlm-chat-7b", "internlm")
    oracle = train_sentencepiece(path / "tokenizer.model", user_defined_symbols=["<eoh>", "<eoa>"])
    tokenizer = load_tokenizer(path)
    for text in TEXTS:
        if "<s>" not in text:
            assert tokenizer(text)["input_ids"] == [1, *oracle.encode(text)]
    text = "<|User|>:Hello<eoh>\n<|Bot|>:你好<eoa>\n<|User|>:sea<eoh>\n<|Bot|>:"
    messages = [{"role": "user", "content": "Hello"}, ANSWER, {"role": "user", "content": "sea"}]
    assert encode_chat(tokenizer, messages) == [1, *oracle.encode(text)]
    assert stop_ids((), {}, tokenizer) == (2, oracle.piece_to_id("<eoa>"))
    with pytest.raises(TokenizerError, match="no system message"):
        encode_chat(tokenizer, [SYSTEM, USER])
    base = path.rename(tmp_path / "internlm-7b")
    assert encode_chat(load_tokenizer(base), messages) is None


def test_internlm2_names_unused_pieces(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m", "internlm2")
    oracle = train_sentencepiece(path / "tokenizer.model")
    last = oracle.get_piece_size() - 1
    edit_sentencepiece(
        path / "tokenizer.model",
        kinds={last - 1: Kind.UNUSED, last: Kind.UNUSED},
        names={last - 1: "[UNUSED_TOKEN_1]", last: "[UNUSED_TOKEN_0]"},
    )
    assert encode_chat(load_tokenizer(path), [USER]) is None, "a base model has no such names"
    added = {
        "1": {"content": "<s>", "special": True},
        str(last - 1): {"content": "<|im_end|>", "special": True},
        str(last): {"content": "<|im_start|>", "special": True},
    }
    write_json(path / "tokenizer_config.json", added_tokens_decoder=added, auto_map=REMOTE)
    tokenizer = load_tokenizer(path)
    assert len(tokenizer) == last + 1
    start, end = last, last - 1

    def part(text: str) -> list[int]:
        ids: list[int] = oracle.encode(text)
        return ids

    assert tokenizer("a<|im_start|>b")["input_ids"] == [1, *part("a"), start, *part("b")]
    assert tokenizer("[UNUSED_TOKEN_0]")["input_ids"] == [1, *part("[UNUSED_TOKEN_0]")]
    messages = [SYSTEM, {"role": "user", "content": "Hello"}]
    assert encode_chat(tokenizer, messages) == [
        1, start, *part("system\nThe sea is wide."), end, *part("\n"),
        start, *part("user\nHello"), end, *part("\n"), start, *part("assistant\n"),
    ]  # fmt: skip
    assert stop_ids((), {}, tokenizer) == (2, end)
    assert tokenizer.decode([1, *part("Hello"), end], skip_special_tokens=True) == "Hello"


def test_text_streams_as_it_is_decoded(tmp_path: Path) -> None:
    for tokenizer in (
        load_tokenizer(chatglm(tmp_path / "a", 3)[0]),
        load_tokenizer(qwen(tmp_path / "b")[0]),
        load_tokenizer(baichuan(tmp_path / "c")[0]),
    ):
        for text in TEXTS:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert streamed(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_chat_is_what_transformers_returns(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(qwen(tmp_path / "m")[0])
    ids = encode_chat(tokenizer, [USER])
    assert ids is not None
    chat: Any = tokenizer.apply_chat_template
    assert chat([USER], add_generation_prompt=True)["input_ids"] == ids
    assert chat([USER], add_generation_prompt=True, tokenize=False) == tokenizer.decode(ids)
    tensors = chat([USER], add_generation_prompt=True, return_tensors="pt")
    assert tensors["input_ids"].tolist() == [ids]
    assert tensors["attention_mask"].tolist() == [[1] * len(ids)]
    batch = chat([[USER], [USER, ANSWER, USER]], padding=True, add_generation_prompt=True)
    missing = len(batch["input_ids"][1]) - len(ids)
    assert batch["input_ids"][0] == [tokenizer.pad_token_id] * missing + ids
    assert batch["attention_mask"][0] == [0] * missing + [1] * len(ids)
    cut = chat([USER], truncation=True, max_length=5, return_dict=False)
    assert cut == ids[:5]
    opened = chat([USER, ANSWER], continue_final_message=True, return_dict=False)
    closed = chat([USER, ANSWER], return_dict=False)
    assert closed[: len(opened)] == opened
    assert tokenizer.decode(closed[len(opened) :]) == "<|im_end|>\n"
    copied = copy.deepcopy(tokenizer)
    assert encode_chat(copied, [USER]) == ids
    with pytest.raises(ValueError, match="tools needs a chat template"):
        chat([USER], tools=[{"name": "f"}])
    with pytest.raises(ValueError, match="not both"):
        chat([USER], add_generation_prompt=True, continue_final_message=True)
    with pytest.raises(TokenizerError, match="no message"):
        chat([])
    own = chat([ANSWER], chat_template="{{ messages[0].content }}<|im_end|>", return_dict=False)
    assert own[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_what_is_saved_can_be_loaded(tmp_path: Path) -> None:
    path, _ = qwen(tmp_path / "m")
    tokenizer = load_tokenizer(path)
    saved = checkpoint(tmp_path / "saved", "qwen")
    tokenizer.save_pretrained(saved)
    again = load_tokenizer(saved)
    assert encode_chat(again, [SYSTEM, USER]) == encode_chat(tokenizer, [SYSTEM, USER])
    assert again(TEXTS[9])["input_ids"] == tokenizer(TEXTS[9])["input_ids"]
    (saved / "config.json").unlink()
    write_json(saved / "config.json", model_type="llama")
    write_json(saved / "tokenizer_config.json", auto_map=REMOTE)
    plain = load_tokenizer(saved)
    assert plain(TEXTS[9])["input_ids"] == tokenizer(TEXTS[9])["input_ids"], "no code is needed"


@pytest.mark.parametrize("model_type", ["baichuan", "chatglm", "internlm", "internlm2", "qwen"])
def test_a_missing_or_broken_file_is_one_line(model_type: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m", model_type)
    with pytest.raises(TokenizerError, match="has no tokenizer") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)
    name = "qwen.tiktoken" if model_type == "qwen" else "tokenizer.model"
    (path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TokenizerError, match="download it again") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)
    (path / name).unlink()
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read") as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", b"{", "is not JSON"),
        ("tokenizer_config.json", b"[]", "is not a JSON object"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}', "'x' is no token"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}', "is not an object"),
        ("added_tokens.json", b'{"<|user|>": "x"}', "has no id"),
        ("generation_config.json", b"\xff", "is not JSON"),
    ],
)
def test_broken_json_is_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path, _ = baichuan(tmp_path / "m")
    (path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m", "baichuan")
    train_sentencepiece(path / "tokenizer.model", model_type="unigram", vocab_size=400)
    with pytest.raises(TokenizerError, match="no BPE model"):
        load_tokenizer(path)
