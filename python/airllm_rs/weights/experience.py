"""What earlier runs of a model found out: the ring that it needs, and how fast it is computed."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from airllm_rs.checkpoint.cache_directory import cache_directory
from airllm_rs.checkpoint.durable import write_json
from airllm_rs.memory import PlanLimits
from airllm_rs.memory.flow import Flow, RingLimit, next_limit
from airllm_rs.weights.devices import identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airllm_rs.memory import MemoryPlan

log = logging.getLogger(__name__)

_MODELS = 64
_RATES = 5
_MIN_SWEEPS = 2
# How much slower than models of how different a size is beyond what formats of weights explain.
_FAR = 4.0
_SIMILAR = 4
_Entry = dict[str, object]


def recall_ring(files: Sequence[str]) -> RingLimit:
    """Return how large a ring may be for the model in ``files``; as large as ever if not known."""
    most = PlanLimits().ring_bytes
    entry = _read().get(_model(files), {})
    nbytes, too_small = entry.get("ring_bytes"), entry.get("too_small", 0)
    if not _is_count(nbytes, most) or not _is_count(too_small, most):
        return RingLimit(most)
    return RingLimit(nbytes, too_small)  # type: ignore[arg-type]


def recall_rate(plan: MemoryPlan, files: Sequence[str]) -> float | None:
    """Return at how many GB/s weights are used; of a model that never ran, as of similar ones.

    A rate that only a few runs have seen and that is far below those of models of about the same
    size was disturbed, and counts for nothing.
    """
    kind, swept = _kind(plan), _swept(plan)
    model, machine = _model(files), _machine()
    known = {
        name: dict(_rates(entry))
        for name, entry in _read().items()
        if entry.get("machine") == machine
    }
    own = known.pop(model, {})
    for name, rate in sorted(own.items(), key=lambda item: item[0] != kind):
        others = [rates[name] for rates in known.values() if name in rates]
        if name.partition(" ")[0] == kind.partition(" ")[0] and not _is_disturbed(rate, others):
            return rate.gbps
    similar = [rates[kind] for rates in known.values() if kind in rates]
    found = [
        (abs(math.log(rate.nbytes / swept)), rate.gbps)
        for rate in similar
        if not _is_disturbed(rate, similar)
    ]
    return min(found)[1] if found else None


def keep_experience(plan: MemoryPlan, files: Sequence[str], flow: Flow) -> None:
    """Remember what a run found out about the model in ``files``.

    Of the rates of the latest few runs the best counts: others were disturbed.

    Args:
        plan: What ran.
        files: The model.
        flow: How it ran.
    """
    model = _model(files)
    limit = recall_ring(files)
    ran = RingLimit(plan.inputs.request.limits.ring_bytes, limit.too_small)
    following = next_limit(ran, PlanLimits().ring_bytes, plan.ring_bytes, flow)
    computed_s = flow.seconds - flow.stall_s
    is_measured = flow.sweeps >= _MIN_SWEEPS and computed_s > 0
    if not model or (following == limit and not is_measured):
        return
    known = _read()
    entry = known.pop(model, {})
    was_here = entry.get("machine") == _machine()
    entry |= {
        "machine": _machine(),
        "ring_bytes": following.nbytes,
        "too_small": following.too_small,
    }
    if is_measured:
        kind, swept = _kind(plan), _swept(plan)
        # of another processor, or of more of it, rates say nothing here
        used = entry.get("used") if was_here else None
        table = used if isinstance(used, dict) else {}
        before = table.get(kind)
        latest = before.get("gbps") if isinstance(before, dict) else None
        rates = [rate for rate in latest if _is_rate(rate)] if isinstance(latest, list) else []
        rate = flow.sweeps * swept / computed_s / 1e9
        table[kind] = {"nbytes": swept, "gbps": [*rates, rate][-_RATES:]}
        entry["used"] = table
    kept = [*known.items(), (model, entry)][-_MODELS:]
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(), dict(kept), indent=1, is_locked=False)
    except OSError as error:
        # a home that cannot be written to costs a less exact plan, nothing else
        log.debug("experience not recorded: %s", error)


def _kind(plan: MemoryPlan) -> str:
    """Return what rates of a model depend on."""
    how = f"resident as {plan.resident_dtype}" if plan.fits else "streamed"
    return f"{plan.inputs.request.compute_dtype} {how}"


def _swept(plan: MemoryPlan) -> int:
    return max(sum(plan.units[index].nbytes for index in plan.order), 1)


class _Rate(NamedTuple):
    """How fast the weights of a model were used."""

    nbytes: int
    """Of a sweep."""
    gbps: float
    """The best of the latest runs."""
    runs: int
    """How many that were."""


def _is_disturbed(rate: _Rate, others: Sequence[_Rate]) -> bool:
    return rate.runs < _RATES and any(
        other.gbps > _FAR * rate.gbps
        and max(other.nbytes, rate.nbytes) < _SIMILAR * min(other.nbytes, rate.nbytes)
        for other in others
    )


def _rates(entry: _Entry) -> Iterator[tuple[str, _Rate]]:
    """Yield what an entry knows: kind and rate."""
    used = entry.get("used")
    for kind, found in used.items() if isinstance(used, dict) else ():
        if not isinstance(found, dict) or not isinstance(found.get("gbps"), list):
            continue
        rates = [rate for rate in found["gbps"] if _is_rate(rate)]
        nbytes = found.get("nbytes")
        if rates and _is_count(nbytes, 1 << 60) and nbytes:
            yield kind, _Rate(nbytes, max(rates), len(rates))


def _is_rate(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _model(files: Sequence[str]) -> str:
    """Return what tells one model on one device from another."""
    try:
        nbytes = sum(Path(file).stat().st_size for file in files)
        return f"{Path(files[0]).resolve()} of {nbytes} bytes on {identity(files[0])}"
    except OSError:
        return ""  # whoever opens the file says so


def _machine() -> str:
    """Return what tells one processor from another, and how much of it this process may use."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = (line.partition(":")[2] for line in text.splitlines() if line.startswith("model name"))
    return f"{cores} cores of {next(names, 'a processor').strip()}"


def _file() -> Path:
    return cache_directory() / "models.json"


def _read() -> dict[str, _Entry]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: entry for key, entry in known.items() if isinstance(entry, dict)}
