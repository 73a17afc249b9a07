"""GGUF files converted once: what is written, in which order, after which questions."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.converted import (
    SPACE_REMEDY,
    convert_once,
    converted_directory,
    is_converted,
    source_identity,
)
from airllm_rs.checkpoint.disk_space import require_space
from airllm_rs.checkpoint.durable import write_json
from airllm_rs.checkpoint.writing import PlannedFile, plan_files, write_file, write_index
from airllm_rs.errors import (
    CheckpointError,
    ConfirmationNeeded,
    MissingDependencyError,
    TokenizerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from airllm_rs.checkpoint.gguf.config import Description
    from airllm_rs.stats.progress import Progress

log = logging.getLogger(__name__)

ASK_ABOVE = 20 * 10**9
"""Bytes from which on a conversion has to be confirmed."""

# Part of the directory's name: a change of what is written makes a new one.
_FORMAT = "bf16-1"


def import_gguf(
    path: Path,
    *,
    cache_dir: Path | None = None,
    yes: bool = False,
    check: Callable[[Mapping[str, object]], object] | None = None,
    progress: Progress,
    ask_above: int = ASK_ABOVE,
) -> Path:
    """Return the directory of the bf16 checkpoint made of a GGUF file, made if it does not exist.

    It is complete or absent; what was interrupted goes on with the first file that is not whole.

    Args:
        path: The GGUF file.
        cache_dir: Where converted checkpoints go; in our cache directory if None.
        yes: Convert without asking.
        check: Called with the contents of config.json before anything is written; it raises what
            it does not like.
        progress: Shows how far the conversion is.
        ask_above: From how many bytes on ``yes`` is needed.

    Raises:
        ConfirmationNeeded: if it takes more than ``ask_above`` bytes, without ``yes``.
        MissingDependencyError: if the gguf package is not installed.
        CheckpointError: if the file is truncated, corrupt or contradicts itself.
        UnsupportedModelError: if it holds what this package does not run.
        TokenizerError: if its tokenizer cannot be converted.
        NotEnoughSpaceException: if the result would not fit on the disk.
        OSError: if the file cannot be read.
    """
    result = converted_directory(f"{path.resolve().stem}-{_FORMAT}", [path], cache_dir)
    if is_converted(result):
        return result
    plan = _plan(path)
    if check is not None:
        check(plan.description.config)
    size = f"{plan.nbytes / 1e9:.2f} GB"
    log.info("%s is converted to bf16 once: %s in %s", path, size, result)
    if plan.nbytes > ask_above and not yes:
        raise ConfirmationNeeded(
            f"{path} has to be converted to bf16 once, which takes {size} in {result.parent}: "
            "say so with --yes (yes=True)",
            needed_bytes=plan.nbytes,
            directory=result.parent,
        )
    convert_once(result, lambda partial: _convert(plan, partial, progress))
    return result


@dataclass(frozen=True)
class _Plan:
    """A conversion that nothing speaks against."""

    path: Path
    identity: str
    description: Description
    has_tokenizer: bool
    files: tuple[PlannedFile, ...]

    @property
    def nbytes(self) -> int:
        """What will be written."""
        return sum(file.nbytes for file in self.files)


def _plan(path: Path) -> _Plan:
    try:
        # the package is optional
        from airllm_rs.checkpoint.gguf import source as gguf_source
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise MissingDependencyError(
            f"{path}: GGUF files need the gguf package: pip install 'airllm_rs[gguf]'"
        ) from error
    from airllm_rs.checkpoint.gguf.config import describe
    from airllm_rs.checkpoint.gguf.names import ROPE_FACTORS
    from airllm_rs.checkpoint.gguf.tokenizer import has_tokenizer
    from airllm_rs.checkpoint.gguf.weights import plan_tensors

    identity = source_identity([path])
    source = gguf_source.read_source(path)
    with path.open("rb") as file:
        factors = source.tensors.get(ROPE_FACTORS)
        rope_factors = None if factors is None else gguf_source.read_floats(file, factors)
        description = describe(source, rope_factors)
        files = plan_files(plan_tensors(file, description.tensors))
    return _Plan(path, identity, description, has_tokenizer(source), files)


def _convert(plan: _Plan, partial: Path, progress: Progress) -> None:
    try:
        _write(plan, partial, progress)
        if source_identity([plan.path]) != plan.identity:
            raise CheckpointError(f"{plan.path} changed while it was converted")
    except (CheckpointError, TokenizerError):
        shutil.rmtree(partial)  # going on from there would fail in the same way
        raise


def _write(plan: _Plan, partial: Path, progress: Progress) -> None:
    from airllm_rs.checkpoint.gguf.tokenizer import convert_tokenizer
    from airllm_rs.checkpoint.gguf.weights import blocks_of

    left = [file for file in plan.files if not (partial / file.name).exists()]
    require_space(
        partial, sum(file.nbytes for file in left), f"converting {plan.path} to bf16", SPACE_REMEDY
    )
    # first, because it is quick and may fail
    if plan.has_tokenizer:
        convert_tokenizer(plan.path, partial)
    else:
        log.info("%s has no tokenizer: only token ids can be given to the model", plan.path)
    write_json(partial / "config.json", plan.description.config, indent=2)
    write_json(partial / "generation_config.json", plan.description.generation_config, indent=2)
    with (
        plan.path.open("rb") as source,
        progress.task(f"converting {plan.path.name} to bf16", plan.nbytes) as task,
    ):
        task.update(plan.nbytes - sum(file.nbytes for file in left))
        description = plan.description
        content = blocks_of(source, description.tensors, description.shape.head_dim)
        for file in left:
            write_file(partial, file, content, task.advance)
    write_index(partial, plan.files)
