"""Directories of converted checkpoints: found by what they were made of, complete or absent."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.cache_directory import VARIABLE, cache_directory
from airllm_rs.checkpoint.durable import locked, sync_directory
from airllm_rs.checkpoint.writing import INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SOURCES = ".airllm_rs-sources.json"
"""Names what a conversion was made of, for people."""
SPACE_REMEDY = f"free some, or choose another place with layer_shards_saving_path= or {VARIABLE}"


def converted_directory(name: str, files: Sequence[Path], target: Path | None) -> Path:
    """Return where the checkpoint that is made of ``files`` belongs.

    Args:
        name: What people recognise it by.
        files: The sources; the place changes whenever one of them does.
        target: The directory of all converted checkpoints; in our cache directory if None.
    """
    base = (target or cache_directory() / "converted").expanduser()
    return base / f"{name}-{source_identity(files)}"


def is_converted(directory: Path, marker: str = INDEX) -> bool:
    """Tell whether the conversion into ``directory``, which ends with ``marker``, was completed."""
    return (directory / marker).exists()


def convert_once(
    directory: Path,
    convert: Callable[[Path], None],
    sources: Sequence[Path],
    *,
    marker: str = INDEX,
) -> None:
    """Fill ``directory``, unless it is filled; other processes that want it wait.

    Args:
        directory: Appears when it is complete.
        convert: Told a directory to fill, which has what an interrupted call left there. It writes
            ``marker`` last.
        sources: What it is made of, remembered for people in `SOURCES`.
        marker: The file that says that a directory is complete.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory.parent / f".{directory.name}.lock"):
        if is_converted(directory, marker):
            return
        partial = directory.with_name(f"{directory.name}.partial")
        partial.mkdir(exist_ok=True)
        named = {"sources": [str(path.absolute()) for path in sources]}
        (partial / SOURCES).write_text(json.dumps(named), encoding="utf-8")
        convert(partial)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
        sync_directory(directory.parent)


def source_identity(files: Sequence[Path]) -> str:
    """Return what changes whenever a source does: path, size and time of change count."""
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def sources_of(directory: Path) -> list[str]:
    """Return what a conversion was made of, as far as it says so."""
    try:
        known = json.loads((directory / SOURCES).read_bytes())
    except (OSError, ValueError):
        return []
    sources = known.get("sources") if isinstance(known, dict) else None
    return [str(source) for source in sources] if isinstance(sources, list) else []
