"""The files of one GGUF model: one, or all that llama.cpp has split it into."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def find_parts(path: Path) -> tuple[Path, ...]:
    """Return all parts of the model that ``path`` is a part of, in order; often itself alone.

    Raises:
        CheckpointError: naming the parts that are missing.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return (path,)
    stem, number, count = match[1], int(match[2]), int(match[3])
    if not 1 <= number <= count:
        raise CheckpointError(f"{path} is part {number} of {count}, which makes no sense")
    # by what is there, not by what a name claims: 99,999 are no more than a listing
    there = {found.name for found in path.parent.glob(f"*-of-{match[3]}.gguf")}
    names = [f"{stem}-{part:05d}-of-{match[3]}.gguf" for part in range(1, count + 1)]
    missing = [name for name in names if name not in there]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{path} is one of {count} parts, and beside it lacks {missing[0]}{more}"
        )
    return tuple(path.with_name(name) for name in names)
