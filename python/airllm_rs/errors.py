"""What can go wrong: one family of exceptions, those raised by the extension among them."""

from __future__ import annotations

from airllm_rs._core import (
    AirLLMError,
    CheckpointChanged,
    CheckpointError,
    LeaseHeld,
    NotScheduled,
    WorkerPanicked,
)

__all__ = [
    "AirLLMError",
    "BudgetError",
    "CheckpointChanged",
    "CheckpointError",
    "ConfigError",
    "LeaseHeld",
    "MissingDependencyError",
    "NotEnoughSpaceException",
    "NotScheduled",
    "StoreError",
    "TokenizerError",
    "UnknownModelError",
    "UnsupportedModelError",
    "WorkerPanicked",
]


class ConfigError(AirLLMError):
    """A configuration file, or something laid over it, says what cannot be."""


class UnsupportedModelError(AirLLMError):
    """The checkpoint is well-formed, but of a kind that this package does not run."""


class UnknownModelError(UnsupportedModelError):
    """The ``model_type`` is none that is known."""


class StoreError(AirLLMError):
    """A shard store is not the one that is wanted, or cannot be made where it was wanted."""


class TokenizerError(AirLLMError):
    """The checkpoint has no tokenizer, or one that cannot be read."""


class BudgetError(AirLLMError):
    """The memory allowed is too little for the model.

    Attributes:
        option: The option to raise: ``"memory"``, ``"weights_memory"``.
        allowed_bytes: What it was.
        smallest_bytes: The smallest value that works.
    """

    def __init__(
        self, message: str, *, option: str, allowed_bytes: int, smallest_bytes: int
    ) -> None:
        super().__init__(message)
        self.option = option
        self.allowed_bytes = allowed_bytes
        self.smallest_bytes = smallest_bytes


class MissingDependencyError(AirLLMError, ImportError):
    """An optional package is needed and not installed; the message has the pip command."""


# AirLLM's name, so that its users' `except` clauses keep working.
class NotEnoughSpaceException(AirLLMError):
    """The disk has too little room for what has to be written."""
