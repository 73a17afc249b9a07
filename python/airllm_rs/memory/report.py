"""A memory plan as `airllm-rs plan --json` prints it, with predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.memory.planner import max_concurrent_tokens, smallest_budget
from airllm_rs.memory.prediction import DISK, MEMORY, Rate, predict

if TYPE_CHECKING:
    from airllm_rs.errors import BudgetError
    from airllm_rs.memory.planner import MemoryPlan


def to_json(plan: MemoryPlan, disk: Rate = DISK, memory: Rate = MEMORY) -> dict[str, object]:
    """Return the plan as JSON values, with what a decoded token will cost."""
    inputs = plan.inputs
    parts = (
        "budget_bytes", "baseline_bytes", "margin_bytes", "kv_bytes", "activation_bytes",
        "scratch_bytes", "ring_bytes", "resident_bytes", "streamed_bytes_per_sweep",
        "total_bytes", "planned_bytes", "context", "max_num_seqs", "chunk_tokens", "embedding",
        "tied", "resident_dtype", "fits",
    )  # fmt: skip
    return {
        "feasible": True,
        **{name: getattr(plan, name) for name in parts},
        "units": len(plan.units),
        "resident_units": len(plan.residents),
        "sweeps_for_context": plan.sweeps(plan.context * plan.max_num_seqs),
        "smallest_bytes": smallest_budget(inputs.config, inputs.files, inputs.request),
        "max_concurrent_tokens": max_concurrent_tokens(inputs.config, inputs.files, inputs.request),
        "predicted": predict(plan, disk, memory),
    }


def infeasible_json(error: BudgetError) -> dict[str, object]:
    """Return what is printed in place of a plan that cannot work."""
    return {
        "feasible": False,
        "error": str(error),
        "option": error.option,
        "budget_bytes": error.allowed_bytes,
        "smallest_bytes": error.smallest_bytes,
    }
