"""What a run did and what it takes: memory as the kernel counts it, counters, progress."""

from airllm_rs.stats.counters import IoCounters, MemoryCounters, RunCounters, Timings
from airllm_rs.stats.process import PeakMemory, ProcessMemory, process_memory
from airllm_rs.stats.progress import Progress, Task, choose_progress

__all__ = [
    "IoCounters",
    "MemoryCounters",
    "PeakMemory",
    "ProcessMemory",
    "Progress",
    "RunCounters",
    "Task",
    "Timings",
    "choose_progress",
    "process_memory",
]
