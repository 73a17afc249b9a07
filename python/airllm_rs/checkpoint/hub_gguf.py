"""GGUF files in repositories of the hub, chosen by their quantisation: ``someone/model:Q4_K_M``."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ID = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?", re.ASCII)
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
# As llama.cpp and those who quantise with it name files.
_LABEL = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|BF16|F16|FP16|F32|FP32))$", re.IGNORECASE
)
# Vision parts, statistics and draft models beside the model.
_OTHERS = ("mmproj", "imatrix", "mtp-")


def parse_hub_id(text: str) -> tuple[str, str | None] | None:
    """Return the repository and the quantisation that a hub id names; None if it is no hub id."""
    match = _ID.fullmatch(text)
    return None if match is None else (match[1], match[2])


def by_quantization(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the GGUF files of a repository by quantisation, such as ``Q4_K_M``, parts in order.

    Files without a quantisation in their names come under their own.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix != ".gguf" or path.name.lower().startswith(_OTHERS):
            continue
        stem = _PART.sub("", path.stem)
        label = _LABEL.search(stem) or _LABEL.search(path.parent.name)
        found.setdefault(label[1].upper() if label else stem, []).append(name)
    return found


def choose(repo_id: str, quantization: str | None, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Return the files of one model in a repository, all parts of it, in order.

    Args:
        repo_id: For messages.
        quantization: As the files' names have it, in either case; None for the only one.
        sizes: The bytes of all files of the repository by name.

    Raises:
        CheckpointError: if there is none, or more than one; lists what there is.
    """
    found = by_quantization(sizes)
    listed = ", ".join(found) or "no GGUF file"
    if quantization is None:
        if len(found) != 1:
            raise CheckpointError(
                f"{repo_id} has GGUF files; name one, as in {repo_id}:{next(iter(found), 'Q4_K_M')}"
                f" (it has {listed})"
            )
        (names,) = found.values()
    elif quantization.upper() not in {label.upper() for label in found}:
        raise CheckpointError(f"{repo_id} has no GGUF file of {quantization}; it has {listed}")
    else:
        names = next(f for label, f in found.items() if label.upper() == quantization.upper())
    return _one_model(repo_id, names)


def _one_model(repo_id: str, names: list[str]) -> tuple[str, ...]:
    models: dict[str, list[str]] = {}
    for name in names:
        models.setdefault(_PART.sub("", name.removesuffix(".gguf")), []).append(name)
    if len(models) > 1:
        raise CheckpointError(
            f"{repo_id} has several models of this quantisation: {', '.join(models)}; "
            "download one, and name the file"
        )
    part = _PART.search(names[0].removesuffix(".gguf"))
    count = int(part[2]) if part else 1
    if len(names) != count:
        raise CheckpointError(f"{repo_id} has {len(names)} of the {count} parts of {names[0]}")
    return tuple(names)
