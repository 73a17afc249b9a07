"""The weights of a checkpoint deleted, when a store has taken their place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint import torch_files
from airllm_rs.store.identity import hub_snapshot

if TYPE_CHECKING:
    from airllm_rs.checkpoint import ModelFiles


def delete_originals(files: ModelFiles) -> int:
    """Delete the files with the weights of a checkpoint, and return the bytes that are free now.

    Only what belongs to this checkpoint alone goes: files in its directory, and of the hub's cache
    the links of this snapshot with those blobs that no other snapshot uses. Configuration and
    tokenizer stay.
    """
    weights = [Path(path) for path in files.files]
    if any(path.parent != files.path for path in weights):
        # converted ones lie in our cache, and may be needed again; what they were made of is here
        weights = torch_files.sources(files.path)
    snapshot = files.path if hub_snapshot(files.path) else None
    return sum(_delete(path, snapshot) for path in weights if path.parent == files.path)


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
