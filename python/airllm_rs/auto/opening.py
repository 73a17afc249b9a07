"""From a path to a memory plan: headers and sizes only, no torch, no weight."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.auto.bridging import read_any_config, runs_layer_by_layer, understand
from airllm_rs.auto.compression import compressed, find_prepared
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.checkpoint.model_files import read_json
from airllm_rs.checkpoint.packed import method_of
from airllm_rs.checkpoint.safetensors_files import names_in
from airllm_rs.errors import UnknownModelError
from airllm_rs.families import some, unknown_model
from airllm_rs.memory import (
    PlanLimits,
    PlanRequest,
    baseline_bytes,
    choose_budget,
    parse_memory,
    plan,
    told_of_budget,
)
from airllm_rs.memory.arithmetic import compute_dtype, has_bf16_arithmetic
from airllm_rs.memory.budget import Machine, this_machine
from airllm_rs.stats import process_memory
from airllm_rs.store.making import refuse_what_is_quantised
from airllm_rs.weights.experience import recall_ring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from airllm_rs.auto.options import LoadOptions
    from airllm_rs.checkpoint import ModelFiles
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family
    from airllm_rs.memory import Budget, MemoryPlan
    from airllm_rs.stats.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A model that is understood and planned, but not loaded."""

    files: ModelFiles
    config: ModelConfig
    family: Family
    unused: list[str]
    """Tensors of the checkpoint that the model has no use for."""
    plan: MemoryPlan
    budget: Budget
    compute_dtype: str
    """``"BF16"`` or ``"F32"``."""
    options: LoadOptions
    is_fresh: bool
    """Whether the process had loaded nothing large before: what it takes then is the baseline."""


def find_files(
    path_or_id: str | PathLike[str],
    options: LoadOptions,
    progress: Progress,
    check: Callable[[Mapping[str, object]], object] | None = None,
) -> ModelFiles:
    """Find the checkpoint, or what was made of it, with what ``options`` say."""
    return open_checkpoint(
        path_or_id,
        revision=options.revision,
        cache_dir=options.cache_dir,
        local_files_only=options.local_files_only,
        token=options.hf_token,
        conversion_dir=options.layer_shards_saving_path,
        check=check,
        prepared=lambda directory: find_prepared(directory, options),
        headers_only=not options.may_make,
        progress=progress,
    )


def open_files(
    path_or_id: str | PathLike[str], options: LoadOptions, progress: Progress
) -> tuple[ModelFiles, ModelConfig]:
    """Find the checkpoint, downloading or converting it if need be, and read its configuration.

    With ``options.compression`` it is a store made of the checkpoint, made now if need be.

    Raises:
        AirLLMError: in one line that says what to do.
        OSError: if a file cannot be read.
    """

    def check(raw: Mapping[str, object]) -> None:
        read_any_config(raw, options.config_overrides)
        method = method_of(raw)
        if method is not None and not Path(path_or_id).expanduser().exists():
            # before it is downloaded
            refuse_what_is_quantised(path_or_id, (method,), options.compression)
        if options.trust_remote_code:
            log.warning(
                "trust_remote_code=True is ignored: %s is run by this package's own code",
                raw["model_type"],
            )

    try:
        files = find_files(path_or_id, options, progress, check)
    except UnknownModelError as error:
        raise _named(path_or_id, options, error) from error
    config = read_any_config(files.config, options.config_overrides)
    found = compressed(files, config, options, progress)
    if found is not files:
        # a store may have a head where the checkpoint has none
        config = read_any_config(found.config, options.config_overrides)
    return found, config


def open_model(
    path_or_id: str | PathLike[str],
    options: LoadOptions,
    *,
    context: Callable[[ModelFiles], int] | None = None,
    progress: Progress,
) -> Opened:
    """Open a checkpoint and plan its memory. Nothing is loaded.

    Args:
        path_or_id: A directory, a ``.safetensors`` or ``.gguf`` file, or a hub id.
        options: What is asked for.
        context: Tells how many tokens the request needs, where ``options.context`` does not.
        progress: Where downloads and conversions are shown.

    Raises:
        BudgetError: if the memory allowed is too little; names the smallest that works.
        AirLLMError: for whatever else is wrong with the checkpoint.
        OSError: if a file cannot be read.
    """
    is_fresh = "torch" not in sys.modules
    files, config = open_files(path_or_id, options, progress)
    arithmetic = compute_dtype(
        files.main_dtype, options.dtype_code, bf16_arithmetic=has_bf16_arithmetic()
    )
    config, family, unused = understand(config, files, arithmetic)
    if unused:
        log.warning(
            "of the checkpoint, no rule knows %s: %s not used (inspect lists all)",
            some(unused),
            "it is" if len(unused) == 1 else "they are",
        )
    tokens = options.context
    if tokens is None and context is not None:
        tokens = context(files)
    if tokens is not None and tokens > config.max_position_embeddings:
        log.warning(
            "the context of %d tokens is longer than the %d that the model was made for",
            tokens,
            config.max_position_embeddings,
        )
    budget = choose_budget(options.memory, _machine(options))
    cap = options.weights_memory
    request = PlanRequest(
        budget_bytes=budget.nbytes,
        # a process that has grown already is never smaller
        baseline_bytes=max(baseline_bytes(), process_memory().total_bytes),
        compute_dtype=arithmetic,
        weights_bytes=None if cap is None else _cap(cap, budget),
        context=tokens,
        max_num_seqs=options.max_num_seqs,
        limits=_limits(files, options),
    )
    with told_of_budget(budget):
        planned = plan(config, files, request)
    if not runs_layer_by_layer(family):
        planned = replace(planned, holds_layer=False)
    return Opened(
        files, config, family, unused, planned, budget, arithmetic, options, is_fresh=is_fresh
    )


def _named(
    path_or_id: str | PathLike[str], options: LoadOptions, error: UnknownModelError
) -> UnknownModelError:
    """Return the error with the names of tensors, where headers that are here tell."""
    directory = Path(path_or_id).expanduser()
    names = names_in(directory)
    if not names:
        return error
    raw = read_json(directory / "config.json")
    return unknown_model({**raw, **(options.config_overrides or {})}, names)


def _limits(files: ModelFiles, options: LoadOptions) -> PlanLimits:
    is_here = options.is_real and options.ram is None
    return PlanLimits(ring_bytes=recall_ring(files.files).nbytes) if is_here else PlanLimits()


def _cap(amount: str | int, budget: Budget) -> int:
    return parse_memory(amount, "weights_memory", whole=budget.nbytes)


def _machine(options: LoadOptions) -> Machine:
    here = this_machine()
    if options.ram is None:
        return here
    nbytes = parse_memory(options.ram, "ram", whole=here.total_bytes)
    return replace(here, total_bytes=nbytes, available_bytes=nbytes, cgroup=None)
