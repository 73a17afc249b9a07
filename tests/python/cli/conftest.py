"""The command line in this process, and a model for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from command_line import SHAPE, invoke

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from command_line import Outcome


@pytest.fixture
def cli() -> Iterator[Callable[..., Outcome]]:
    """Run commands, and leave logging as it was."""
    log = logging.getLogger("airllm_rs")
    before = log.level, log.propagate, log.handlers
    yield invoke
    log.level, log.propagate, log.handlers = before


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that never ends a text, and whose tokens are bytes."""
    path = tmp_path_factory.mktemp("made") / "model"
    log = logging.getLogger("airllm_rs")
    before = log.level, log.propagate, log.handlers
    assert invoke("bench", "make-model", path, *SHAPE, "--dtype=f32").code == 0
    log.level, log.propagate, log.handlers = before
    return path
