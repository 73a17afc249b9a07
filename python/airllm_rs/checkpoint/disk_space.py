"""Room on the disk, looked at before anything large is written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from airllm_rs.errors import NotEnoughSpaceException

if TYPE_CHECKING:
    from pathlib import Path

# What is left to others, so that a conversion never fills a disk to the last byte.
_RESERVE = 64 << 20


def require_space(directory: Path, needed: int, what: str, remedy: str) -> None:
    """Raise unless ``needed`` bytes can be written below ``directory``, which need not exist.

    Args:
        directory: Where they would go.
        needed: How many.
        what: What needs them, such as ``converting pytorch_model.bin``.
        remedy: What the user can do about it.

    Raises:
        NotEnoughSpaceException: naming what is needed and what is free.
    """
    existing = directory
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed + _RESERVE > free:
        raise NotEnoughSpaceException(
            f"{what} needs {needed / 1e9:.2f} GB in {directory} and leaves "
            f"{_RESERVE / 1e9:.2f} GB to others, but {free / 1e9:.2f} GB are free: {remedy}"
        )
