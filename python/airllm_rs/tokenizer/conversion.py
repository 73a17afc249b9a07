"""The tokenizers of families whose own classes are remote code, made of their vocabulary files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

from airllm_rs.errors import TokenizerError
from airllm_rs.tokenizer.chat_formats import Baichuan, ChatGLM2, ChatGLM3, QWen
from airllm_rs.tokenizer.converted import ConvertedTokenizer
from airllm_rs.tokenizer.sentencepiece_bpe import sentencepiece_bpe
from airllm_rs.tokenizer.sentencepiece_model import read_sentencepiece
from airllm_rs.tokenizer.tiktoken_ranks import read_ranks, tiktoken_bpe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airllm_rs.tokenizer.chat_formats import ChatFormat
    from airllm_rs.tokenizer.files import TokenizerFiles

SENTENCEPIECE = "tokenizer.model"
TIKTOKEN = "qwen.tiktoken"
_JSON = "tokenizer.json"

_GLM_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_GLM3_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
# What later revisions of ChatGLM3 ship: `ChatGLM3` in words, but for a text that has tokens in it.
_GLM3_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}[gMASK]sop<|{{ message['role'] }}|>\n "
    "{{ message['content'] }}{% else %}<|{{ message['role'] }}|>\n {{ message['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN_EXTRAS = 205
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_NO_SYSTEM = "{{ raise_exception('InternLM has no system message') }}"
_INTERNLM_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|User|>:' + message['content'] + '<eoh>\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|Bot|>:' + message['content'] + '<eoa>\n' }}"
    f"{{% else %}}{_NO_SYSTEM}{{% endif %}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Bot|>:' }}{% endif %}"
)
_CHATML_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def convert(files: TokenizerFiles) -> ConvertedTokenizer:
    """Return the tokenizer of a checkpoint of one of `FAMILIES`.

    Raises:
        TokenizerError: if a file is missing, or is not what its name says.
        OSError: if a file cannot be read.
    """
    return FAMILIES[files.model_type](files)


def _chatglm(files: TokenizerFiles) -> ConvertedTokenizer:
    is_third = _is_chatglm3(files)
    tokens = (*_GLM_TOKENS, *(_GLM3_ROLES if is_third else ()))
    backend, named = _sentencepiece(files, appended=tokens)
    token = _ids(backend, files)
    begin = ["[gMASK]", "sop"]
    pad, end = named["unk_token"], named["eos_token"]
    backend.post_processor = TemplateProcessing(
        single=[*(f"{name}:0" for name in begin), "$A:0"],
        pair=[*(f"{name}:0" for name in begin), "$A:0", "$B:0", f"{end}:0"],
        special_tokens=[(name, token(name)) for name in [*begin, end]],
    )
    template = files.chat_template
    if is_third and template == _GLM3_TEMPLATE:
        template = None
    chat: ChatFormat | None = ChatGLM3(token) if is_third else ChatGLM2(token)
    return _tokenizer(
        files,
        backend,
        {"unk_token": pad, "pad_token": pad, "eos_token": end},
        chat_template=template,
        chat_format=None if template or files.says("-base") or files.says("codegeex") else chat,
        stop_tokens=("<|user|>", "<|observation|>") if is_third else (),
        # its code gives every text to sentencepiece as it is
        split_special_tokens=True,
    )


def _is_chatglm3(files: TokenizerFiles) -> bool:
    """Tell ChatGLM3 from ChatGLM2, which has the same architecture and vocabulary file."""
    if any(fields["content"] == "<|user|>" for fields in files.added.values()):
        return True
    if files.says("chatglm3") or files.says("chatglm2") or files.says("codegeex2"):
        return files.says("chatglm3")
    return files.config.get("pad_token_id") is not None


def _qwen(files: TokenizerFiles) -> ConvertedTokenizer:
    path = files.directory / TIKTOKEN
    if path.exists():
        ranks = read_ranks(path)
        extras = (f"<|extra_{index}|>" for index in range(_QWEN_EXTRAS))
        names = dict(enumerate((*_QWEN_TOKENS, *extras), len(ranks)))
        names |= {token_id: str(fields["content"]) for token_id, fields in files.added.items()}
        backend = tiktoken_bpe(ranks, names, _QWEN_PATTERN)
        # in the text as it was normalised
        backend.add_special_tokens([AddedToken(name, normalized=True) for name in names.values()])
    else:
        backend = _from_json(files, TIKTOKEN)
    end = _QWEN_TOKENS[0]
    template = files.chat_template
    is_raw = files.generation.get("chat_format") == "raw"
    return _tokenizer(
        files,
        backend,
        {"eos_token": end, "pad_token": end} | _known(files, backend),
        chat_template=template,
        chat_format=None if template or is_raw else QWen(_ids(backend, files)),
        stop_tokens=(end, "<|im_end|>"),
    )


def _baichuan(files: TokenizerFiles) -> ConvertedTokenizer:
    backend, named = _sentencepiece(files)
    user, assistant = (files.generation.get(key) for key in ("user_token_id", "assistant_token_id"))
    chat = None
    if isinstance(user, int) and isinstance(assistant, int):
        for token_id in (user, assistant):
            if backend.id_to_token(token_id) is None:
                raise TokenizerError(
                    f"{files.directory}/generation_config.json: the vocabulary has no id {token_id}"
                )
        chat = Baichuan(user, assistant)
    template = files.chat_template
    return _tokenizer(
        files,
        backend,
        {"pad_token": named["unk_token"], **named},
        chat_template=template,
        chat_format=None if template else chat,
        **_begin_and_end(files),
    )


def _internlm(files: TokenizerFiles) -> ConvertedTokenizer:
    backend, named = _sentencepiece(files)
    end = "<eoa>"
    stop_id = backend.token_to_id(end)
    ends = files.generation.get("eos_token_id")
    is_chat = stop_id is not None and (
        files.says("chat") or (isinstance(ends, list) and stop_id in ends)
    )
    return _tokenizer(
        files,
        backend,
        named,
        chat_template=files.chat_template or (_INTERNLM_TEMPLATE if is_chat else None),
        stop_tokens=(end,) if stop_id is not None else (),
        **_begin_and_end(files),
    )


def _internlm2(files: TokenizerFiles) -> ConvertedTokenizer:
    backend, named = _sentencepiece(files)
    end = "<|im_end|>"
    is_chat = backend.token_to_id(end) is not None
    return _tokenizer(
        files,
        backend,
        named,
        chat_template=files.chat_template or (_CHATML_TEMPLATE if is_chat else None),
        stop_tokens=(end,) if is_chat else (),
        **_begin_and_end(files),
    )


FAMILIES: Mapping[str, Callable[[TokenizerFiles], ConvertedTokenizer]] = {
    "baichuan": _baichuan,
    "chatglm": _chatglm,
    "internlm": _internlm,
    "internlm2": _internlm2,
    "qwen": _qwen,
}
"""By ``model_type``."""


def _sentencepiece(
    files: TokenizerFiles, appended: Iterable[str] = ()
) -> tuple[Tokenizer, dict[str, str]]:
    """Return the tokenizer of ``tokenizer.model``, and its named tokens.

    Args:
        files: The checkpoint's.
        appended: Tokens that the family has after the last piece.
    """
    path = files.directory / SENTENCEPIECE
    if not path.exists():
        backend = _from_json(files, SENTENCEPIECE)
        usual = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
        return backend, usual | _known(files, backend)
    model = read_sentencepiece(path)
    if not model.is_bpe or model.treat_whitespace_as_suffix:
        raise TokenizerError(f"{path} is no BPE model that puts spaces before words")
    names = dict(enumerate(appended, len(model.pieces)))
    tokens = {
        token_id: AddedToken(name, normalized=False, special=True)
        for token_id, name in names.items()
    }
    for token_id, fields in files.added.items():
        name = str(fields["content"])
        if model.piece(token_id) != name:
            tokens[token_id] = AddedToken(
                name, normalized=False, special=bool(fields.get("special", True))
            )
    backend = sentencepiece_bpe(model, {key: token.content for key, token in tokens.items()})
    backend.add_tokens([tokens[token_id] for token_id in sorted(tokens)])
    ids = {"unk_token": model.unk_id, "bos_token": model.bos_id, "eos_token": model.eos_id}
    own = {name: backend.id_to_token(token_id) for name, token_id in ids.items() if token_id >= 0}
    return backend, {name: token for name, token in own.items() if token} | _known(files, backend)


def _known(files: TokenizerFiles, backend: Tokenizer) -> dict[str, str]:
    """Return the named tokens that the vocabulary has."""
    return {
        name: token for name, token in files.named.items() if backend.token_to_id(token) is not None
    }


def _from_json(files: TokenizerFiles, expected: str) -> Tokenizer:
    path = files.directory / _JSON
    if not path.exists():
        raise TokenizerError(f"{files.directory} has no tokenizer (no {expected}, no {_JSON})")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # it raises nothing narrower
        first = str(error).strip().partition("\n")[0]
        raise TokenizerError(f"{path} cannot be read: {first}") from error


def _begin_and_end(files: TokenizerFiles) -> dict[str, bool]:
    return {
        "add_bos_token": files.flag("add_bos_token", True),
        "add_eos_token": files.flag("add_eos_token", False),
    }


def _ids(backend: Tokenizer, files: TokenizerFiles) -> Callable[[str], int]:
    def find(name: str) -> int:
        token_id = backend.token_to_id(name)
        if token_id is None:
            raise TokenizerError(f"the vocabulary in {files.directory} has no token {name!r}")
        return token_id

    return find


def _tokenizer(
    files: TokenizerFiles, backend: Tokenizer, named: Mapping[str, str], **settings: object
) -> ConvertedTokenizer:
    longest = files.tokenizer.get("model_max_length")
    return ConvertedTokenizer(
        backend,
        **named,  # type: ignore[arg-type]
        **settings,  # type: ignore[arg-type]
        model_max_length=longest if isinstance(longest, int) else None,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
