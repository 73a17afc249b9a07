"""Small vocabularies of the kinds that families ship, trained by the packages that made theirs."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2
from tiktoken import Encoding
from tiktoken._educational import bpe_train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CORPUS = (
    "The sea is wide and the ships are slow; the wind is warm, and nobody is in a hurry.\n"
    "def area(width, height):\n    return width * height  # square metres\n"
    'for (int i = 0; i < 10; ++i) { printf("%d\\n", i); }\n'
    "你好，世界！今天天气很好，我们去海边看船吧。船很慢，海很大，风很暖。\n"
    "What is the capital of France? Paris. 法国的首都是巴黎。1234567890\n"
    "system user assistant You are a helpful assistant. Hello hello hello\n"
) * 4

TEXTS = (
    "",
    " ",
    "   ",
    "\n",
    "\n\n  x",
    "Hello",
    " Hello world ",
    "The sea is wide.  The ships   are slow.",
    "你好，世界！",
    "今天 weather 很好, 12345 度",
    "def f(x):\n    if x:\n\treturn {'a': [1, 2]}\r\n",
    "<s>a</s><unk>",
    "<eoh>x<eoa>\n<eoa>",
    "<|im_start|>user\nhi<|im_end|>",
    "<|user|>\n[gMASK]sop philosophy",
    "👩‍👩‍👧 🏳️‍🌈 €",
    "cafe\u0301 é ｆｕｌｌ\u3000width \u00a0",
    "a\tb\u2028c\u0085d\u200be",
    "▁under▁line",
    "aaaaaaaaaaaaaaaa    bbbbbbbb",
    "it's I'LL we'Ve 'ſ",
)
"""Text of every kind that has its own rule somewhere."""


def train_sentencepiece(path: Path, **options: object) -> SentencePieceProcessor:
    """Write a BPE model to ``path`` and return it, read by sentencepiece."""
    corpus = path.with_suffix(".txt")
    corpus.write_text(CORPUS, encoding="utf-8")
    settings: dict[str, Any] = {
        "input": str(corpus),
        "model_prefix": str(path.with_suffix("")),
        "model_type": "bpe",
        "vocab_size": 520,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "minloglevel": 2,
    } | options
    SentencePieceTrainer.train(**settings)
    corpus.unlink()
    return read(path)


def read(path: Path) -> SentencePieceProcessor:
    """Return the model in ``path``, read by sentencepiece."""
    return SentencePieceProcessor(model_file=str(path))


def read_proto(path: Path) -> Any:  # noqa: ANN401 - protobuf makes the class at run time
    """Return the ModelProto in ``path``, read by protobuf."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(path.read_bytes())
    return proto


def edit_sentencepiece(
    path: Path, *, kinds: Mapping[int, int], names: Mapping[int, str]
) -> SentencePieceProcessor:
    """Give pieces of the model in ``path`` other kinds and names; return it, read again."""
    proto = read_proto(path)
    for index, kind in kinds.items():
        proto.pieces[index].type = kind
    for index, name in names.items():
        proto.pieces[index].piece = name
    path.write_bytes(proto.SerializeToString())
    return read(path)


def train_ranks(path: Path, pattern: str, names: Sequence[str], *, size: int = 420) -> Encoding:
    """Write a file of tiktoken ranks to ``path``; return tiktoken's encoding with these names."""
    ranks = bpe_train(CORPUS, size, pattern, visualise=None)
    path.write_bytes(b"".join(b64encode(t) + f" {r}\n".encode() for t, r in ranks.items()))
    return Encoding(
        "test",
        pat_str=pattern,
        mergeable_ranks=ranks,
        special_tokens={name: index for index, name in enumerate(names, len(ranks))},
    )


def write_json(path: Path, **content: object) -> None:
    """Write one of a checkpoint's JSON files."""
    path.write_text(json.dumps(content), encoding="utf-8")
