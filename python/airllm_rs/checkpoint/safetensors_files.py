"""The safetensors of a directory, whoever has written it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.checkpoint.splits import is_split, open_split
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "airllm_rs.json"
"""What a shard store has when it is complete."""
STRIPE = "airllm_rs.stripe.json"
"""What says, in the other directories of a striped store, which store they belong to."""
RECORDS = ".airllm_rs-progress"
"""The directory that says which files of a store are finished; gone when all are."""
SAFETENSORS_INDEX = "model.safetensors.index.json"


def open_safetensors(path: Path) -> _core.Checkpoint | None:
    """Parse the headers of a file, or of those in a directory; None if it has no safetensors.

    Raises:
        CheckpointError: if a file contradicts itself or another, or a store is not finished.
        OSError: if a file cannot be read.
    """
    if path.is_file():
        return _core.Checkpoint.open(path)
    if is_split(path):
        return open_split(path)
    if (path / MANIFEST).exists():
        return _core.Checkpoint.open(path)
    if (path / RECORDS).exists():
        raise CheckpointError(
            f"{path} is a shard store that is not finished: make it again, which goes on from there"
        )
    if (path / SAFETENSORS_INDEX).exists() or (path / "model.safetensors").exists():
        return _core.Checkpoint.open(path)
    others = sorted(path.glob("*.safetensors"))
    return _core.Checkpoint.open(others[0]) if len(others) == 1 else None


def names_in(directory: Path) -> list[str]:
    """Return the names of the tensors in a directory's safetensors, none if there are no such."""
    try:
        opened = open_safetensors(directory)
    except (CheckpointError, OSError):
        return []  # what is wrong with them is not what was asked
    return [] if opened is None else opened.names()
