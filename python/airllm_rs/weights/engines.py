"""What the extension can read a file with, asked without reading a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from airllm_rs import _core

if TYPE_CHECKING:
    from pathlib import Path


class EngineProbe(NamedTuple):
    """What a trial read with one I/O engine found."""

    engine: str
    ok: bool
    reason: str | None
    """Why it cannot read the file."""
    alignment: int
    """What its reads begin and end at multiples of."""


def probe_engines(path: Path) -> list[EngineProbe]:
    """Read a block of a file with every engine, the one that ``"auto"`` prefers first."""
    return [EngineProbe(*found) for found in _core.probe_engines(path)]


def build_profile() -> str:
    """Return how the extension was built: ``"debug"`` or ``"release"``."""
    return _core.__build_profile__
