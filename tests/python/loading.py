"""Loads a tiny checkpoint in every way that a plan can ask for."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from transformers import GenerationConfig

from airllm_rs import _core
from airllm_rs.auto.bridging import read_any_config, understand
from airllm_rs.auto.executor import build_executor
from airllm_rs.checkpoint import ModelFiles, open_checkpoint
from airllm_rs.checkpoint.packed import packed_weights
from airllm_rs.checkpoint.splits import configuration_of, is_split, open_split
from airllm_rs.errors import BudgetError
from airllm_rs.executors.bridged import BridgedExecutor
from airllm_rs.executors.streaming import StreamingExecutor
from airllm_rs.generation.causal_lm import CausalLM
from airllm_rs.generation.configuration import transformers_config
from airllm_rs.memory import MemoryPlan, PlanLimits, PlanRequest, plan
from airllm_rs.memory.arithmetic import compute_dtype
from airllm_rs.models.bridge import bridged_config
from airllm_rs.weights.dtypes import TORCH_DTYPES
from airllm_rs.weights.readahead import open_readahead, unit_parts
from airllm_rs.weights.rows import row_reader
from fake_readahead import FakeReadahead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from airllm_rs.config import ModelConfig

ROOM = 1 << 30
KIB = 1024


@dataclass(frozen=True)
class Mode:
    """How much stays in memory, and how a prompt is cut."""

    share: float
    """Of the bytes between the least that works and all."""
    limits: PlanLimits = field(default_factory=lambda: PlanLimits(resident_below=0, group_bytes=0))
    chunk_tokens: int = 512
    prefetching: bool = True


MODES = {
    "resident": Mode(1),
    "streamed": Mode(0),
    "part resident": Mode(0.5),
    "grouped units": Mode(0.6, PlanLimits(resident_below=0, group_bytes=32 * KIB)),
    "ring below a layer": Mode(
        0, PlanLimits(8 * KIB, group_bytes=0, resident_below=0), chunk_tokens=9
    ),
    "chunks held": Mode(
        0.7, PlanLimits(8 * KIB, group_bytes=20 * KIB, resident_below=0), chunk_tokens=9
    ),
    "on demand": Mode(0, prefetching=False),
}


def open_files(path: Path) -> ModelFiles:
    """Open the checkpoint in ``path``: a directory, a split or a GGUF file."""
    if path.suffix == ".gguf":
        return open_checkpoint(path)
    config = json.loads((configuration_of(path) / "config.json").read_text())
    core = open_split(path) if is_split(path) else _core.Checkpoint.open(path)
    return ModelFiles(path, config, {}, core, packed_weights(core, config))


def make_plan(
    files: ModelFiles,
    mode: Mode,
    *,
    arithmetic: str,
    context: int = 256,
    sequences: int = 4,
    config: ModelConfig | None = None,
    overrides: Mapping[str, object] | None = None,
) -> MemoryPlan:
    """Plan a tiny model with plenty of memory, but what ``mode`` leaves to weights."""
    if config is None:
        config, _, _ = understand(read_any_config(files.config, overrides), files, arithmetic)
    request = PlanRequest(
        budget_bytes=ROOM,
        baseline_bytes=0,
        compute_dtype=arithmetic,
        context=context,
        max_num_seqs=sequences,
        limits=mode.limits,
    )
    everything = plan(config, files, request)
    if mode.share < 1:
        with pytest.raises(BudgetError) as refused:
            plan(config, files, replace(request, weights_bytes=1))
        least = refused.value.smallest_bytes
        most = sum(unit.nbytes for unit in everything.units)
        cap = least + int(mode.share * (most - least))
        everything = plan(config, files, replace(request, weights_bytes=cap))
    return replace(everything, chunk_tokens=mode.chunk_tokens)


@contextmanager
def load(
    path: Path,
    mode: str = "streamed",
    *,
    requested: str | None = "F32",
    engine: str | None = None,
    context: int = 256,
    overrides: Mapping[str, object] | None = None,
    bridged: bool = False,
) -> Iterator[CausalLM]:
    """Load the checkpoint in ``path``; without an ``engine`` the strict readahead of tests reads.

    Args:
        path: A directory, or a GGUF file.
        mode: One of `MODES`.
        requested: The dtype to compute in, as the user asks for it.
        engine: The I/O engine of the extension's readahead.
        context: Tokens that the plan holds, of each of four sequences.
        overrides: Keys laid over config.json.
        bridged: Run transformers' own layers, whether there are ours or not.
    """
    files = open_files(path)
    code = compute_dtype(files.main_dtype, requested, bf16_arithmetic=True)
    dtype = TORCH_DTYPES[code]
    way = MODES[mode]
    read = bridged_config if bridged else read_any_config
    parsed, _, _ = understand(read(files.config, overrides), files, code)
    made = make_plan(files, way, arithmetic=code, context=context, config=parsed)
    if engine is None:
        readahead: _core.Readahead | FakeReadahead = FakeReadahead(
            files.files,
            [unit_parts(unit) for unit in made.units],
            residents=made.residents,
            ring_bytes=made.ring_bytes,
        )
        if way.prefetching and not made.fits:
            readahead.schedule(made.order, cyclic=True)
    else:
        readahead = open_readahead(made, files.files, engine=engine, prefetching=way.prefetching)
    executor = build_executor(
        parsed,
        files,
        made,
        readahead,  # type: ignore[arg-type]
        compute_dtype=dtype,
        gather=row_reader(files, made.layers[0].tensors[0].name, compute_dtype=dtype),
        prefetching=way.prefetching,
    )
    config = transformers_config(parsed, dtype)
    defaults = GenerationConfig.from_model_config(config)
    model = CausalLM(config, executor, generation_config=defaults)
    try:
        yield model
    finally:
        model.close()


def streaming(model: CausalLM) -> StreamingExecutor:
    """Return the executor of a native model."""
    executor = model.executor
    assert isinstance(executor, StreamingExecutor)
    return executor


def bridged_executor(model: CausalLM) -> BridgedExecutor:
    """Return the executor of a model whose layers are those of transformers."""
    executor = model.executor
    assert isinstance(executor, BridgedExecutor)
    return executor
