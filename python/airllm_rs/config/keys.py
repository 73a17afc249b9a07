"""Typed access to the keys of config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def token_ids(value: object, where: str) -> tuple[int, ...]:
    """Return token ids that a file gives as nothing, a number or a list.

    Raises:
        ConfigError: for anything else, beginning with ``where``.
    """
    listed = value if isinstance(value, list | tuple) else [] if value is None else [value]
    ids = tuple(entry for entry in listed if isinstance(entry, int) and not isinstance(entry, bool))
    if len(ids) != len(listed):
        raise ConfigError(f"{where} is {value!r}, expected a token id or a list of them")
    return ids


class Keys:
    """Typed access; what is of a wrong type raises `ConfigError`, and so does what is missing."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string; ``default`` where there is none."""
        value = self.optional_text(key)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"config.json: {key} is missing")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string, or None where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"config.json: {key} is {value!r}, expected a string")
        return value

    def count(self, key: str) -> int:
        """Return a whole number of 1 or more."""
        value = self.optional_count(key)
        if value is None:
            raise ConfigError(f"config.json: {key} is missing")
        return value

    def optional_count(self, key: str) -> int | None:
        """Return a whole number of 1 or more, or None where there is none."""
        value = self._optional_int(key)
        if value is not None and value < 1:
            raise ConfigError(f"config.json: {key} is {value}, expected 1 or more")
        return value

    def optional_id(self, key: str) -> int | None:
        """Return a whole number, or None where there is none."""
        return self._optional_int(key)

    def positive(self, key: str, default: float) -> float:
        """Return a number above 0; ``default`` where there is none."""
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"config.json: {key} is {value!r}, expected a number above 0")
        return float(value)

    def optional_positive(self, key: str) -> float | None:
        """Return a number above 0, or None where there is none."""
        return None if self.values.get(key) is None else self.positive(key, 1.0)

    def flag(self, key: str, default: bool) -> bool:
        """Return whether something is so; ``default`` where nothing is said."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ConfigError(f"config.json: {key} is {value!r}, expected true or false")
        return value

    def mapping(self, key: str) -> Mapping[str, object]:
        """Return an object, an empty one where there is none."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ConfigError(f"config.json: {key} is {value!r}, expected an object")
        return value

    def _optional_int(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"config.json: {key} is {value!r}, expected a whole number")
        return value
