"""A store of what the user names: found or made, announced, verified."""

from __future__ import annotations

import logging
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.auto.bridging import refuse_bridged
from airllm_rs.auto.opening import open_files
from airllm_rs.checkpoint import hub
from airllm_rs.checkpoint.model_files import read_json
from airllm_rs.checkpoint.opening import local
from airllm_rs.checkpoint.packed import method_of
from airllm_rs.checkpoint.remote import look_at
from airllm_rs.errors import StoreError
from airllm_rs.families import read_config, understand
from airllm_rs.memory import choose_budget, told_of_budget
from airllm_rs.store import StoreRequest, check_scheme, make_store
from airllm_rs.store.downloading import DownloadRequest, make_while_downloading
from airllm_rs.store.making import refuse_what_is_quantised
from airllm_rs.store.registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

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
    if while_downloading and delete_original:
        raise ValueError(
            "delete_original and while_downloading cannot be combined: nothing is kept"
        )
    if while_downloading:
        made = _while_downloading(path_or_id, directories, options, progress, scheme, memory)
        register(made.store)
        return made
    files, config = open_files(path_or_id, options, progress)
    for directory in directories:
        if files.path.resolve() in directory.resolve().parents:
            raise StoreError(f"{directory} is inside the checkpoint: choose a place beside it")
    refuse_bridged(config, "a shard store", "run the checkpoint as it is")
    config, family, _ = understand(config, files)
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
        may_repair=True,
    )
    with told_of_budget(budget):
        made = make_store(request, progress)
    register(made.store)
    return made


def _while_downloading(
    path_or_id: str | PathLike[str],
    directories: Sequence[Path],
    options: LoadOptions,
    progress: Progress,
    scheme: str | None,
    memory: str | int,
) -> Made:
    repo_id = fspath(path_or_id)
    if local(path_or_id) is not None:
        raise ValueError(f"while_downloading needs a hub id, and {repo_id} is here: leave it out")

    def check(raw: Mapping[str, object]) -> None:
        read_config(raw, options.config_overrides)
        method = method_of(raw)
        if method is not None:
            refuse_what_is_quantised(repo_id, (method,), scheme)
            raise StoreError(
                f"{repo_id} is quantised already ({method}), and what its tensors mean is told by "
                "whole files: leave while_downloading out"
            )

    # configuration and tokenizer, as if the weights were there
    snapshot = hub.download(
        repo_id,
        revision=options.revision,
        cache_dir=Path(options.cache_dir) if options.cache_dir is not None else None,
        token=options.hf_token,
        check=check,
        has_weights=lambda _directory: True,
        progress=progress,
    )
    config = read_config(read_json(snapshot / "config.json"), options.config_overrides)
    remote = look_at(repo_id, snapshot.name, options.hf_token)
    config, family, _ = understand(config, remote)
    budget = choose_budget(memory)
    request = DownloadRequest(
        remote=remote,
        snapshot=snapshot,
        config=config,
        family=family,
        scheme=scheme,
        directories=tuple(directory.absolute() for directory in directories),
        memory_bytes=budget.nbytes,
    )
    with told_of_budget(budget):
        return make_while_downloading(request, progress)
