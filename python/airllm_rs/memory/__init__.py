"""The memory plan: what stays in memory, what is streamed, and how much is left for the rest."""

from airllm_rs.memory.amount import format_bytes, parse_bytes, parse_memory
from airllm_rs.memory.baseline import baseline_bytes, record_baseline
from airllm_rs.memory.budget import Budget, choose_budget, told_of_budget
from airllm_rs.memory.planner import (
    MemoryPlan,
    PlanRequest,
    plan,
    replan,
    smallest_budget,
)
from airllm_rs.memory.units import Piece, PlanLimits, Unit

__all__ = [
    "Budget",
    "MemoryPlan",
    "Piece",
    "PlanLimits",
    "PlanRequest",
    "Unit",
    "baseline_bytes",
    "choose_budget",
    "format_bytes",
    "parse_bytes",
    "parse_memory",
    "plan",
    "record_baseline",
    "replan",
    "smallest_budget",
    "told_of_budget",
]
