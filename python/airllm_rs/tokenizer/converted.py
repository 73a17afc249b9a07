"""A tokenizer converted from the files of a family whose own class is remote code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import BatchEncoding, PreTrainedTokenizerFast

from airllm_rs.errors import TokenizerError
from airllm_rs.tokenizer.chat_formats import conversation_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer

    from airllm_rs.tokenizer.chat_formats import ChatFormat, Message


class ConvertedTokenizer(PreTrainedTokenizerFast):
    """A tokenizer of transformers that also knows what its family's code knew.

    A chat template, the checkpoint's or one set later, comes before the family's chat format.

    Attributes:
        chat_format: How the family writes conversations, where no template can say it.
        stop_tokens: Names of the tokens that end an answer, beside the end token.
    """

    chat_format: ChatFormat | None
    stop_tokens: tuple[str, ...]

    def __init__(
        self,
        backend: Tokenizer,
        *,
        chat_format: ChatFormat | None = None,
        stop_tokens: Sequence[str] = (),
        **settings: object,
    ) -> None:
        # set first: as an argument it would be copied, a second for a large vocabulary
        self._tokenizer = backend
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self.chat_format = chat_format
        self.stop_tokens = tuple(stop_tokens)

    @property
    def stop_token_ids(self) -> list[int]:
        """The ids of `stop_tokens`.

        Raises:
            TokenizerError: if the vocabulary lacks one.
        """
        ids = []
        for token in self.stop_tokens:
            token_id = self.backend_tokenizer.token_to_id(token)
            if token_id is None:
                raise TokenizerError(f"the vocabulary has no token {token!r}")
            ids.append(token_id)
        return ids

    def apply_chat_template(  # type: ignore[override] # what transformers adds is in `more`
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        tools: object = None,
        documents: object = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        **more: Any,  # noqa: ANN401 - transformers' own variables of templates
    ) -> Any:  # noqa: ANN401 - as in transformers: text, ids, tensors or a dictionary
        """Return a conversation as token ids, or as the text that they would be shown as.

        Arguments and result are those of transformers; ids do not depend on what the text says:
        only the family's format puts special tokens in.

        Raises:
            TokenizerError: if the chat format cannot express the conversation, or there is none.
            ValueError: for an option that needs a template.
        """
        chat = self.chat_format
        if chat_template or self.chat_template or chat is None:
            settings = {"split_special_tokens": False, **(more.pop("tokenizer_kwargs", None) or {})}
            return super().apply_chat_template(
                conversation,  # type: ignore[arg-type]
                tools=tools,  # type: ignore[arg-type]
                documents=documents,  # type: ignore[arg-type]
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=tokenize,
                padding=padding,
                truncation=truncation,
                max_length=max_length,
                return_tensors=return_tensors,
                return_dict=return_dict,
                tokenizer_kwargs=settings,
                **more,
            )
        refused = {"tools": tools, "documents": documents, **more}
        if asked := [name for name, value in refused.items() if value]:
            raise ValueError(f"{asked[0]} needs a chat template: the checkpoint has none")
        if add_generation_prompt and continue_final_message:
            raise ValueError("use add_generation_prompt or continue_final_message, not both")
        is_batch = bool(conversation) and not isinstance(conversation[0], dict)
        conversations: Any = conversation if is_batch else [conversation]
        batch = [
            conversation_parts(
                chat,
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
            )
            for messages in conversations
        ]
        if not tokenize:
            texts = ["".join(self._shown(part) for part in parts) for parts in batch]
            return texts if is_batch else texts[0]
        ids = [self._cut(self._ids(parts), max_length if truncation else None) for parts in batch]
        encoded = self.pad(
            BatchEncoding({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}),
            padding=padding,
            max_length=max_length,
            return_tensors=return_tensors,
            verbose=False,
        )
        if not is_batch and return_tensors is None:
            encoded = BatchEncoding({name: rows[0] for name, rows in encoded.items()})
        return encoded if return_dict else encoded["input_ids"]

    def _ids(self, parts: Sequence[str | int]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self(part, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _shown(self, part: str | int) -> str:
        if isinstance(part, str):
            return part
        token = self.convert_ids_to_tokens(part)
        assert isinstance(token, str), "one id is one token"
        return token

    def _cut(self, ids: list[int], most: int | None) -> list[int]:
        if most is None or len(ids) <= most:
            return ids
        return ids[:most] if self.truncation_side == "right" else ids[-most:]
