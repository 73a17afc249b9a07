"""Text comes as soon as it is certain, ends where it must, and draws its own random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from airllm_rs.auto.prompts import Sampling, encode
from airllm_rs.auto.text_stream import TextStream
from airllm_rs.benchmarks.byte_tokenizer import write_byte_tokenizer
from airllm_rs.errors import TokenizerError
from airllm_rs.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

END = 300


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    path: Path = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(path, END + 1)
    return load_tokenizer(path)


def steps(text: str, *more: int) -> Iterator[torch.Tensor]:
    for token in (*text.encode(), *more):
        yield torch.tensor([token])


def stream(
    tokenizer: PreTrainedTokenizerBase, tokens: Iterator[torch.Tensor], *stops: str
) -> TextStream:
    return TextStream(tokens, tokenizer, prompt_tokens=1, stop_ids=[END], stops=stops)


def test_pieces_are_the_text(tokenizer: PreTrainedTokenizerBase) -> None:
    found = stream(tokenizer, steps("grüße €"))
    assert "".join(found) == "grüße €" == found.text
    assert found.token_ids == list("grüße €".encode())
    assert found.finish_reason == "length"


def test_an_end_token_ends_and_shows_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    found = stream(tokenizer, steps("yes", END, ord("x")))
    assert "".join(found) == "yes"
    assert found.token_ids[-1] == END
    assert found.finish_reason == "stop"


@pytest.mark.parametrize(
    ("text", "stops", "want"),
    [
        ("one. two", (". ",), "one"),
        ("abcabd", ("abd",), "abc"),
        ("aaab", ("aab",), "a"),
        ("xyz", ("q", "z", "yz"), "x"),
        ("ab", ("abc",), "ab"),
        ("stop", ("stop",), ""),
    ],
)
def test_stop_strings_end_the_text_before_them(
    text: str, stops: tuple[str, ...], want: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    found = stream(tokenizer, steps(text), *stops)
    assert "".join(found) == want == found.text
    assert found.finish_reason == ("stop" if any(stop in text for stop in stops) else "length")


def test_closing_ends_the_generation(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = steps("a long answer")
    found = stream(tokenizer, tokens)
    assert next(found) == "a"
    found.close()
    assert next(tokens, None) is None or list(found) == []


def test_a_seed_repeats_and_leaves_other_random_numbers_alone(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    def random_tokens() -> Iterator[torch.Tensor]:
        for _ in range(5):
            yield torch.randint(97, 122, (1,))

    def run() -> str:
        made = TextStream(random_tokens(), tokenizer, prompt_tokens=1, stop_ids=[], seed=7)
        pieces = []
        for piece in made:
            torch.rand(3)  # what others draw in between
            pieces.append(piece)
        return "".join(pieces)

    torch.manual_seed(1)
    first = run()
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(3 * 5)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(2)
    assert run() == first


def test_sampling_is_checked_and_says_only_what_was_asked() -> None:
    assert Sampling().keywords() == {"max_new_tokens": 256}
    assert Sampling(temperature=0).keywords()["do_sample"] is False
    assert Sampling(top_k=5, max_new_tokens=2).keywords() == {
        "max_new_tokens": 2, "top_k": 5, "do_sample": True,
    }  # fmt: skip
    for name, value in {
        "max_new_tokens": 0, "temperature": -1.0, "top_p": 1.5, "min_p": -0.1, "top_k": -1,
        "repetition_penalty": 0.0,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            Sampling(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stop string is empty"):
        Sampling(stop=["a", ""])


def test_prompts_become_conversations_where_there_is_a_template(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert encode(tokenizer, "hi", system=None, raw=False) == [104, 105]
    with pytest.raises(TokenizerError, match="no chat template"):
        encode(tokenizer, [{"role": "user", "content": "hi"}], system=None, raw=False)
    with pytest.raises(ValueError, match="raw text"):
        encode(tokenizer, "hi", system="be brief", raw=True)
    with pytest.raises(ValueError, match="empty"):
        encode(tokenizer, "", system=None, raw=True)
    chatty = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template="{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}{% endfor %}",
    )
    ids = encode(chatty, "hi", system="x", raw=False)
    assert bytes(ids) == b"[s]x[u]hi"
    assert encode(chatty, "hi", system=None, raw=True) == [104, 105]
