"""The executor of a model: ours, or the one that runs transformers' own layers."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from airllm_rs.executors.bridged import BridgedExecutor
from airllm_rs.executors.streaming import StreamingExecutor
from airllm_rs.families.bridged import BridgedConfig
from airllm_rs.models import build_model
from airllm_rs.weights.followed import FollowedSource
from airllm_rs.weights.source import WeightSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import torch

    from airllm_rs.checkpoint import ModelFiles
    from airllm_rs.config import ModelConfig
    from airllm_rs.memory import MemoryPlan
    from airllm_rs.weights.readahead import Readahead


def build_executor(
    config: ModelConfig,
    files: ModelFiles,
    plan: MemoryPlan,
    readahead: Readahead,
    *,
    compute_dtype: torch.dtype,
    gather: Callable[[torch.Tensor], torch.Tensor],
    prefetching: bool = True,
    on_layer: Callable[[int, int], None] | None = None,
    watch: Callable[[int], AbstractContextManager[object]] = nullcontext,
) -> StreamingExecutor | BridgedExecutor:
    """Build the modules of a model on top of ``readahead``, which may be reading already.

    Args:
        config: The model.
        files: Its checkpoint.
        plan: What is resident, what is streamed.
        readahead: Reads the units of the plan.
        compute_dtype: Of the arithmetic.
        gather: Reads rows of the embedding table from disk.
        prefetching: Whether units are read ahead of their use.
        on_layer: As `StreamingExecutor` takes it.
        watch: As `StreamingExecutor` takes it.
    """
    kind = FollowedSource if isinstance(config, BridgedConfig) else WeightSource
    weights = kind(plan, readahead, compute_dtype=compute_dtype, prefetching=prefetching)
    if isinstance(config, BridgedConfig):
        assert isinstance(weights, FollowedSource)
        return BridgedExecutor(
            config, files, weights, plan, gather=gather, on_layer=on_layer, watch=watch
        )
    return StreamingExecutor(
        build_model(config), weights, plan, gather=gather, on_layer=on_layer, watch=watch
    )
