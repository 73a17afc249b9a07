"""Where a budget comes from: what the user says, the cgroup's limit, or what is available."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs.errors import BudgetError
from airllm_rs.memory.amount import format_bytes, parse_memory
from airllm_rs.stats.cgroup import ROOT, memory_cgroup
from airllm_rs.stats.process import process_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airllm_rs.stats.cgroup import MemoryCgroup

MIB = 1 << 20
GIB = 1 << 30
# Page tables, sockets and slabs are charged to a cgroup too and are no part of a process.
_KERNEL_SHARE = 128
_KERNEL_LEAST = 16 * MIB
_LEFT_TO_OTHERS = 2 * GIB


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount of memory for the whole process."""

    nbytes: int
    source: str
    """Why this amount, for people."""
    is_automatic: bool = False
    """Whether nobody has named the amount."""

    def __str__(self) -> str:
        return f"memory: {format_bytes(self.nbytes)} ({self.source})"


@dataclass(frozen=True, slots=True)
class Machine:
    """The memory there is."""

    total_bytes: int
    available_bytes: int
    cgroup: MemoryCgroup | None
    own_anon_bytes: int
    """What this process has already taken of it."""

    @property
    def free_bytes(self) -> int:
        """What may still be taken: what is available, or less where the cgroup has less left."""
        if self.cgroup is None:
            return self.available_bytes
        left = max(self.cgroup.limit_bytes - self.cgroup.anon_bytes, 0)
        return min(self.available_bytes, left)


def this_machine(root: Path = ROOT) -> Machine:
    """Return the memory that the kernel says there is."""
    found: dict[str, int] = {}
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("MemTotal", "MemAvailable", "MemFree"):
            found[name] = int(value.split()[0]) * 1024
    total = found.get("MemTotal", 0)
    available = found.get("MemAvailable", found.get("MemFree", total))
    own = process_memory(root / "proc/self/status").anon_bytes
    return Machine(total, available, memory_cgroup(root), own)


def choose_budget(memory: str | int, machine: Machine | None = None) -> Budget:
    """Return the budget that ``memory`` asks for.

    Args:
        memory: ``"auto"``, a number of bytes, an amount such as ``"3GiB"``, or a share such as
            ``"60%"`` of the cgroup's limit or, without one, of the machine's memory.
        machine: The memory there is; this machine's if None.

    Raises:
        ValueError: if ``memory`` is none of these.
    """
    machine = machine or this_machine()
    if memory == "auto":
        return _automatic(machine)
    limit = machine.cgroup.limit_bytes if machine.cgroup is not None else machine.total_bytes
    whole = min(limit, machine.total_bytes) if machine.total_bytes else limit
    nbytes = parse_memory(memory, "memory", whole=whole)
    if isinstance(memory, str) and "%" in memory:
        return Budget(nbytes, f"{memory.strip()} of {format_bytes(whole)}")
    return Budget(nbytes, "as asked")


def _automatic(machine: Machine) -> Budget:
    free = machine.available_bytes
    group = machine.cgroup
    if group is not None:
        margin = max(group.limit_bytes // _KERNEL_SHARE, _KERNEL_LEAST)
        others = max(group.anon_bytes - machine.own_anon_bytes, 0)
        nbytes = group.limit_bytes - margin - others
        # a limit above what the machine has left limits nothing
        if not free or nbytes <= free:
            taken = f" and {format_bytes(others)} of other processes" if others else ""
            return Budget(
                max(nbytes, 1),
                f"the cgroup's limit of {format_bytes(group.limit_bytes)} less "
                f"{format_bytes(margin)}{taken}; --memory changes it",
                is_automatic=True,
            )
    nbytes = max(min(free * 3 // 4, free - _LEFT_TO_OTHERS), free // 4, 1)
    return Budget(
        nbytes, f"of {format_bytes(free)} available; --memory changes it", is_automatic=True
    )


@contextmanager
def told_of_budget(budget: Budget) -> Iterator[None]:
    """Let a budget that is too little, and that nobody has named, be told with its source.

    Raises:
        BudgetError: the one that was raised, in other words.
    """
    try:
        yield
    except BudgetError as error:
        amount, _, verdict = str(error).removeprefix("memory=").partition(" ")
        is_told = error.option == "memory" and verdict.startswith("is too little")
        if not (budget.is_automatic and is_told):
            raise
        source = budget.source.partition(";")[0]
        raise BudgetError(
            f"memory=auto found {amount} ({source}), which {verdict}",
            option=error.option,
            allowed_bytes=error.allowed_bytes,
            smallest_bytes=error.smallest_bytes,
        ) from error
