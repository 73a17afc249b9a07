"""What a checkpoint's JSON files say about its tokenizer."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING

from airllm_rs.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class TokenizerFiles:
    """The files beside a tokenizer; one that is missing says nothing.

    Every property raises a TokenizerError for a file that is not JSON of the expected shape.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def config(self) -> Mapping[str, object]:
        """config.json."""
        return self._read("config.json")

    @cached_property
    def generation(self) -> Mapping[str, object]:
        """generation_config.json."""
        return self._read("generation_config.json")

    @cached_property
    def tokenizer(self) -> Mapping[str, object]:
        """tokenizer_config.json."""
        return self._read("tokenizer_config.json")

    @property
    def model_type(self) -> str:
        """``model_type`` of config.json, empty if there is none."""
        value = self.config.get("model_type")
        return value if isinstance(value, str) else ""

    @cached_property
    def added(self) -> Mapping[int, Mapping[str, object]]:
        """The tokens beside the vocabulary file by id, each with ``content`` and ``special``."""
        found: dict[int, Mapping[str, object]] = {}
        for content, token_id in self._read("added_tokens.json").items():
            if not isinstance(token_id, int):
                raise TokenizerError(f"{self.directory}/added_tokens.json: {content!r} has no id")
            found[token_id] = {"content": content, "special": content.startswith("<|")}
        listed = self.tokenizer.get("added_tokens_decoder") or {}
        where = f"{self.directory}/tokenizer_config.json: added_tokens_decoder"
        if not isinstance(listed, dict):
            raise TokenizerError(f"{where} is not an object")
        for token_id, fields in listed.items():
            is_token = isinstance(fields, dict) and isinstance(fields.get("content"), str)
            if not is_token or not str(token_id).isdecimal():
                raise TokenizerError(f"{where}: {token_id!r} is no token")
            found[int(token_id)] = fields
        return found

    @cached_property
    def named(self) -> Mapping[str, str]:
        """Those of ``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token`` that are given."""
        listed = {**self._read("special_tokens_map.json"), **self.tokenizer}
        found = {}
        for name in _TOKENS:
            value = listed.get(name)
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                found[name] = content
        return found

    @cached_property
    def chat_template(self) -> object:
        """The checkpoint's template, or templates by name; None if it has none."""
        path = self.directory / "chat_template.jinja"
        if path.exists():
            return path.read_text(encoding="utf-8")
        return self.tokenizer.get("chat_template")

    @property
    def has_remote_class(self) -> bool:
        """Whether the tokenizer's class is code of the checkpoint."""
        return bool(self.tokenizer.get("auto_map"))

    def says(self, word: str) -> bool:
        """Tell whether a name that the checkpoint goes by has ``word`` in it."""
        directory = self.directory.absolute()
        if directory.parent.name == "snapshots":  # the hub's cache: models--OWNER--NAME above it
            directory = directory.parents[1]
        names = [
            self.config.get("_name_or_path"),
            self.tokenizer.get("name_or_path"),
            directory.name,
        ]
        return any(isinstance(name, str) and word in name.lower() for name in names)

    def flag(self, key: str, default: bool) -> bool:
        """Return a flag of tokenizer_config.json."""
        value = self.tokenizer.get(key)
        return value if isinstance(value, bool) else default

    def _read(self, name: str) -> Mapping[str, object]:
        path = self.directory / name
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise TokenizerError(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise TokenizerError(f"{path} is not a JSON object")
        return content
