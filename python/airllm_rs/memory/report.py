"""A memory plan as `airllm-rs plan --json` prints it, with predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.memory.planner import max_concurrent_tokens, smallest_budget

if TYPE_CHECKING:
    from airllm_rs.errors import BudgetError
    from airllm_rs.memory.planner import MemoryPlan

DISK_GBPS = 2.0
"""What a prediction assumes of the disk unless told: a common NVMe drive."""
MEMORY_GBPS = 30.0
"""What a prediction assumes of the memory unless told: a desktop's, read by all cores."""


def to_json(
    plan: MemoryPlan, *, disk_gbps: float | None = None, memory_gbps: float | None = None
) -> dict[str, object]:
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
        "predicted": predict(plan, disk_gbps or DISK_GBPS, memory_gbps or MEMORY_GBPS),
    }


def predict(plan: MemoryPlan, disk_gbps: float, memory_gbps: float) -> dict[str, object]:
    """Return what one decoded token costs at these rates, batch 1.

    Reading and computing overlap, so the slower one counts.
    """
    swept = sum(plan.units[index].nbytes for index in plan.order)
    disk_s = plan.streamed_bytes_per_sweep / (disk_gbps * 1e9)
    memory_s = swept / (memory_gbps * 1e9)
    return {
        "bytes_per_sweep": plan.streamed_bytes_per_sweep,
        "s_per_token": max(disk_s, memory_s),
        "limited_by": "disk" if disk_s > memory_s else "memory",
        "disk_gbps": disk_gbps,
        "memory_gbps": memory_gbps,
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
