"""Directories that AirLLM has split a checkpoint into: a file per layer, and no index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs import _core

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "splitted_model"
_DONE = ".done"


def is_split(directory: Path) -> bool:
    """Tell whether AirLLM has made this directory, and finished."""
    if directory.name.partition(".")[0] != NAME:
        return False
    files = sorted(directory.glob("*.safetensors"))
    return bool(files) and all(path.with_name(path.name + _DONE).exists() for path in files)


def find_split(places: Iterable[Path | None], compression: str | None) -> Path | None:
    """Return the first of ``places`` that has, or is, a split of this compression.

    Args:
        places: The snapshot, and where the user keeps shards; None is passed over.
        compression: ``"4bit"`` or ``"8bit"``, which are bitsandbytes' there, or None.
    """
    name = f"{NAME}.{compression}" if compression else NAME
    for place in places:
        if place is None:
            continue
        for directory in (place / name, place):
            if directory.name == name and is_split(directory):
                return directory
    return None


def open_split(directory: Path) -> _core.Checkpoint:
    """Parse the headers of a split.

    Raises:
        CheckpointError: if a file contradicts itself or another.
    """
    return _core.Checkpoint.open_files(sorted(directory.glob("*.safetensors")))


def configuration_of(directory: Path) -> Path:
    """Return the directory with the configuration: a split's is the one above."""
    if is_split(directory) and not (directory / "config.json").exists():
        return directory.parent
    return directory
