"""What all tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tiny import tiny_checkpoint as write_tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests convert and measure away from the user's cache, in child processes too."""
    os.environ["AIRLLM_RS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write tiny checkpoints of random weights, each kind once: ``(model_type, **overrides)``."""
    written: dict[str, Path] = {}

    def write(model_type: str, **overrides: object) -> Path:
        key = repr((model_type, sorted(overrides.items())))
        if key not in written:
            path = tmp_path_factory.mktemp(model_type)
            written[key] = write_tiny_checkpoint(model_type, path, **overrides)  # type: ignore[arg-type]
        return written[key]

    return write
