"""What a process takes before it has a model: measured once per set of installed packages."""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.cache_directory import cache_directory

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

DEFAULT_BYTES = 760 << 20
"""torch 2.15 with CUDA, transformers 5.24 and a tokenizer: 0.42 GB anonymous, 0.33 GB mapped."""

_KEPT = 5
_PACKAGES = ("torch", "transformers")


def baseline_bytes(directory: Path | None = None) -> int:
    """Return what the process will take without a model, as measured, else `DEFAULT_BYTES`.

    Imports nothing to find out.
    """
    return max(_read(_file(directory)).get(installed(), []), default=DEFAULT_BYTES)


def record_baseline(nbytes: int, directory: Path | None = None) -> None:
    """Remember a measurement for the packages installed; of the latest few the largest counts."""
    path = _file(directory)
    known = _read(path)
    known[installed()] = [*known.get(installed(), []), nbytes][-_KEPT:]
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        # a home that cannot be written to costs a less exact plan, nothing else
        log.debug("baseline not recorded: %s", error)


def installed() -> str:
    """Return what a measurement holds for."""
    names = [f"python {sys.version_info.major}.{sys.version_info.minor}"]
    for package in _PACKAGES:
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            names.append(f"no {package}")
    return ", ".join(names)


def _file(directory: Path | None) -> Path:
    return (directory or cache_directory()) / "baseline.json"


def _read(path: Path) -> dict[str, list[int]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {
        key: [entry for entry in entries if isinstance(entry, int) and entry > 0]
        for key, entries in known.items()
        if isinstance(entries, list)
    }
