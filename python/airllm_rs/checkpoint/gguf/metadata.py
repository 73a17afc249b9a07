"""Typed access to the metadata of a GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Metadata:
    """The keys of one architecture, without the prefix of its name."""

    def __init__(self, path: Path, values: Mapping[str, object], prefix: str) -> None:
        self._path = path
        self._values = values
        self._prefix = prefix

    def required_count(self, key: str) -> int:
        """Return a whole number above 0.

        Raises:
            CheckpointError: if there is none.
        """
        value = self.count(key)
        if value is None:
            raise CheckpointError(f"{self._path}: {self._prefix}{key} is missing")
        return value

    def count(self, key: str) -> int | None:
        """Return a whole number above 0, None without one."""
        value = self._scalar(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(key, value, "a whole number above 0")
        return value

    def token_id(self, key: str) -> int | None:
        """Return a whole number from 0 on, None without one."""
        value = self._scalar(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(key, value, "a token id")
        return value

    def required_number(self, key: str) -> float:
        """Return a number.

        Raises:
            CheckpointError: if there is none.
        """
        value = self.number(key)
        if value is None:
            raise CheckpointError(f"{self._path}: {self._prefix}{key} is missing")
        return value

    def number(self, key: str) -> float | None:
        """Return a number, None without one.

        The file has float32; what comes back is the shortest decimal of that value, as people
        wrote it: 1e-05, not 9.999999747378752e-06.
        """
        value = self._scalar(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self._wrong(key, value, "a number")
        return float(str(np.float32(value)))

    def flag(self, key: str, default: bool) -> bool:
        """Return whether something is so; ``default`` where nothing is said."""
        value = self._scalar(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def flags(self, key: str) -> list[bool] | None:
        """Return what a list says of each layer; None where there is no list."""
        value = self._values.get(f"{self._prefix}{key}")
        if not isinstance(value, list):
            return None
        return [bool(entry) for entry in value]

    def text(self, key: str, default: str) -> str:
        """Return a string."""
        value = self._scalar(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def require_neutral(self, key: str, neutral: float) -> None:
        """Refuse a key that would change what the model computes.

        Raises:
            UnsupportedModelError: unless it is absent, or as good as absent.
        """
        value = self._scalar(key)
        if value is not None and value != neutral:
            raise UnsupportedModelError(
                f"{self._path}: {self._prefix}{key} is {value!r}, which cannot be imported"
            )

    def require_absent(self, key: str) -> None:
        """Refuse a key that is there, whatever it says.

        Raises:
            UnsupportedModelError: if it is.
        """
        if f"{self._prefix}{key}" in self._values:
            raise UnsupportedModelError(
                f"{self._path}: it has {self._prefix}{key}, which cannot be imported"
            )

    def _scalar(self, key: str) -> object:
        value = self._values.get(f"{self._prefix}{key}")
        if isinstance(value, list):  # one per layer
            if not value or any(other != value[0] for other in value):
                raise UnsupportedModelError(
                    f"{self._path}: {self._prefix}{key} differs between layers, "
                    "which cannot be imported"
                )
            return value[0]
        return value

    def _wrong(self, key: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: {self._prefix}{key} is {value!r}, expected {expected}"
        )
