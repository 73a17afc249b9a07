"""A store of what the user names: found or made, announced, verified."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airllm_rs.auto.opening import open_files
from airllm_rs.families import family_of, validate
from airllm_rs.memory import choose_budget
from airllm_rs.store import StoreRequest, check_scheme, make_store
from airllm_rs.store.registry import register

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from airllm_rs.auto.options import LoadOptions
    from airllm_rs.stats.progress import Progress
    from airllm_rs.store.making import Made

log = logging.getLogger(__name__)


def shard(
    path_or_id: str | PathLike[str],
    directories: Sequence[Path],
    options: LoadOptions,
    progress: Progress,
    *,
    compression: str | None = None,
    memory: str | int = "auto",
    delete_original: bool = False,
    while_downloading: bool = False,
) -> Made:
    """Make a store of a checkpoint in directories of the user's choice.

    Raises:
        AirLLMError: in one line that says what to do.
        OSError: if a file cannot be read or written.
    """
    scheme = check_scheme(compression)
    files, config = open_files(path_or_id, options, progress)
    family = family_of(config)
    validate(config, family, files)
    budget = choose_budget(memory)
    log.info("%s", budget)
    request = StoreRequest(
        files=files,
        config=config,
        family=family,
        scheme=scheme,
        directories=tuple(directory.absolute() for directory in directories),
        memory_bytes=budget.nbytes,
        may_delete=delete_original,
    )
    made = make_store(request, progress)
    register(made.store)
    return made
