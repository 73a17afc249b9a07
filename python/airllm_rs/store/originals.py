"""The weights of a checkpoint deleted, when a store has taken their place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint import torch_files
from airllm_rs.checkpoint.splits import is_split
from airllm_rs.errors import CheckpointError
from airllm_rs.store.identity import hub_snapshot

if TYPE_CHECKING:
    from airllm_rs.checkpoint import ModelFiles


def delete_originals(files: ModelFiles) -> int:
    """Delete the files with the weights of a checkpoint, and return the bytes that are free now.

    Only what belongs to this checkpoint alone goes: the files that were read where they lie in its
    directory, and of the hub's cache the links of this snapshot with those blobs that no other
    snapshot uses. Other weights beside them, configuration and tokenizer stay.
    """
    directory = files.path.absolute()
    real = directory.resolve()
    snapshot = real if hub_snapshot(real) else None
    return sum(_delete(path, snapshot) for path in _originals(files, directory))


def _originals(files: ModelFiles, directory: Path) -> list[Path]:
    weights = [Path(path).absolute() for path in files.files]
    places = {path.parent for path in weights}
    if len(places) != 1:
        return []
    (place,) = places
    is_here = place.samefile(directory)
    if is_here or (is_split(place) and place.parent.samefile(directory)):
        return weights
    # converted ones lie in our cache, and may be needed again; what they were made of is here
    try:
        sources = torch_files.sources(directory)
    except CheckpointError:
        return []
    is_conversion = bool(sources) and torch_files.conversion(directory).name == place.name
    return sources if is_conversion else []


def _delete(path: Path, snapshot: Path | None) -> int:
    if not path.is_symlink():
        nbytes = path.stat().st_size
        path.unlink()
        return nbytes
    target = path.resolve()
    path.unlink()
    if snapshot is None or not _is_free(target, snapshot):
        return 0  # somebody else's file
    nbytes = target.stat().st_size
    target.unlink()
    return nbytes


def _is_free(blob: Path, snapshot: Path) -> bool:
    """Tell whether a file is a blob of the snapshot's repository that no snapshot links to."""
    home = snapshot.absolute().parent.parent
    if blob.parent != (home / "blobs").resolve() or not blob.exists():
        return False
    links = (path for path in (home / "snapshots").rglob("*") if path.is_symlink())
    return all(link.resolve() != blob for link in links)
