"""`bench decode`: prefill and decode apart, beside what the disk and the memory would allow."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from airllm_rs import _core
from airllm_rs.auto.loading import load_model
from airllm_rs.benchmarks.decode_options import DecodeOptions
from airllm_rs.errors import AirLLMError
from airllm_rs.memory.budget import this_machine
from airllm_rs.memory.prediction import DISK, Rate, predict
from airllm_rs.weights.experience import recall_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from airllm_rs.auto.model import Model
    from airllm_rs.auto.opening import Opened
    from airllm_rs.memory import MemoryPlan
    from airllm_rs.stats import Progress

log = logging.getLogger(__name__)

MEMORY_BYTES = 1 << 30
"""What is summed to measure the memory, where a quarter of what is free allows it."""
DEVICE_BYTES = 2 << 30
"""What a measurement of the device reads at most."""
_SUMS = 3


@dataclass(frozen=True)
class Phase:
    """What the counters say of a prefill, or of the decoding after it."""

    seconds: float
    cpu_seconds: float
    bytes_read: int
    requests: int
    busy_s: float
    stall_s: float


@dataclass(frozen=True)
class Round:
    """One prompt and its answer."""

    prefill: Phase
    decode: Phase
    s_per_token: list[float]
    """Of each token after the first."""


@dataclass(frozen=True)
class Device:
    """What the disk gives without a consumer, read as the model is read at that moment."""

    gbps: float | None
    """None where nothing is streamed, or it could not be measured."""
    request_bytes: int
    queue_depth: int

    def to_json(self) -> dict[str, object]:
        """Return it under the keys that are printed."""
        return {
            "gb_per_s": self.gbps,
            "block_bytes": self.request_bytes,
            "queue_depth": self.queue_depth,
        }


@dataclass
class Measured:
    """Everything that `measure` found."""

    plan: MemoryPlan
    load_s: float
    warmup_s: float
    """The first token after loading, residents included."""
    rounds: list[Round]
    stats: Mapping[str, Any]
    before: Device
    after: Device
    memory_gbps: float
    used_gbps: float | None
    """How fast earlier runs used weights; None if there were none."""
    options: DecodeOptions = field(default_factory=DecodeOptions)

    @property
    def device_gbps(self) -> float | None:
        """The mean of before and after, as far as they could be measured."""
        found = [rate for rate in (self.before.gbps, self.after.gbps) if rate is not None]
        return sum(found) / len(found) if found else None

    def to_json(self) -> dict[str, object]:
        """Return the point of `bench decode --json`."""
        prefills = [found.prefill for found in self.rounds]
        decodes = [found.decode for found in self.rounds]
        tokens = self.options.tokens - 1
        per_token = [phase.seconds / tokens for phase in decodes]
        s_per_token = median(per_token)
        prefill_s = median(phase.seconds for phase in prefills)
        device = self.device_gbps
        disk = Rate(device, "measured") if device else DISK
        predicted = predict(self.plan, disk, Rate(self.used_gbps or self.memory_gbps, "measured"))
        expected = predicted["s_per_token"]
        assert isinstance(expected, float), "seconds"
        achieved = median(phase.bytes_read / phase.seconds / 1e9 for phase in decodes)
        streams = not self.plan.fits
        return {
            "load_s": self.load_s,
            "warmup_s": self.warmup_s,
            "prefill": {
                "tokens": self.options.prompt_tokens,
                "seconds": prefill_s,
                "samples_s": [phase.seconds for phase in prefills],
                "tokens_per_s": self.options.prompt_tokens / prefill_s,
                **_counters(prefills),
            },
            "decode": {
                "tokens": tokens,
                "s_per_token": s_per_token,
                "samples_s_per_token": per_token,
                "token_s": [found.s_per_token for found in self.rounds],
                "tokens_per_s": 1 / s_per_token,
                "gb_per_s": achieved,
                **_counters(decodes),
            },
            "device": {
                **self.after.to_json(),
                "gb_per_s": device,
                "before": self.before.to_json(),
                "after": self.after.to_json(),
                "decode_share": achieved / device if device and streams else None,
            },
            "memory_gb_per_s": self.memory_gbps,
            "earlier_use_gb_per_s": self.used_gbps,
            "predicted": predicted,
            "measured_over_predicted": s_per_token / expected if expected else None,
            "peak_bytes": self.stats["memory"]["peak_bytes"],
            **{name: self.stats[name] for name in ("weights", "io", "memory", "sweeps")},
        }


def measure(
    opened: Opened,
    options: DecodeOptions,
    progress: Progress,
    *,
    after_close: Callable[[Model], None] | None = None,
) -> Measured:
    """Load the model, generate the rounds, and measure what the machine would allow.

    Args:
        opened: The model, planned for prompt and answer together.
        options: How much is generated.
        progress: Where it is shown.
        after_close: Called with the model, closed, when all rounds are done: for its trace.

    Raises:
        AirLLMError: if weights cannot be read.
        OSError: if a file cannot be read.
    """
    # what `plan` would have predicted with, before this run adds to it
    used_gbps = recall_rate(opened.plan, opened.files.files) if opened.options.is_real else None
    with load_model(opened, progress) as model:
        load_s = model.timings.load_s
        begun = time.monotonic()
        # residents are read, memory is touched, kernels are chosen
        for _ in _tokens(model, 1, 2):
            pass
        warmup_s = time.monotonic() - begun
        before = _device(model)
        with progress.task("bench decode", options.rounds, unit="rounds") as task:
            rounds = []
            for _ in range(options.rounds):
                rounds.append(_round(model, options))
                task.advance(1)
        stats = model.stats
        after = _device(model)
        plan = model.plan
    if after_close is not None:
        after_close(model)
    return Measured(
        plan, load_s, warmup_s, rounds, stats, before, after, memory_gbps(), used_gbps, options
    )


def memory_gbps() -> float:
    """Return how fast all cores read memory: GB/s of a sum over a tensor larger than caches."""
    free = this_machine().free_bytes
    tensor = torch.ones(max(min(MEMORY_BYTES, free // 4), 1 << 20) // 4)
    seconds = []
    tensor.sum()
    for _ in range(_SUMS):
        begun = time.perf_counter()
        tensor.sum()
        seconds.append(time.perf_counter() - begun)
    return tensor.nbytes / median(seconds) / 1e9


def _round(model: Model, options: DecodeOptions) -> Round:
    marks = [_mark(model)]
    ends: list[float] = []
    for _ in _tokens(model, options.prompt_tokens, options.tokens):
        ends.append(time.monotonic())
        if len(ends) == 1:
            marks.append(_mark(model))
    marks.append(_mark(model))
    prefill, decode = (_between(a, b) for a, b in pairwise(marks))
    steps = [later - earlier for earlier, later in pairwise(ends)]
    return Round(prefill, decode, steps)


def _tokens(model: Model, prompt_tokens: int, new_tokens: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.opened.config.vocab_size
    ids = torch.randint(vocabulary, (1, prompt_tokens), generator=generator)
    return model.stream_ids(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
    )


def _mark(model: Model) -> Phase:
    """Return the counters of the moment."""
    counters = model.executor.weights.readahead.progress()
    return Phase(
        time.monotonic(),
        time.process_time(),
        counters["bytes_read"],
        counters["requests"],
        counters["busy_ns"] / 1e9,
        counters["stall_ns"] / 1e9,
    )


def _between(earlier: Phase, later: Phase) -> Phase:
    return Phase(
        later.seconds - earlier.seconds,
        later.cpu_seconds - earlier.cpu_seconds,
        later.bytes_read - earlier.bytes_read,
        later.requests - earlier.requests,
        later.busy_s - earlier.busy_s,
        later.stall_s - earlier.stall_s,
    )


def _counters(phases: list[Phase]) -> dict[str, object]:
    """Return medians over the rounds."""
    return {
        "busy_share": median(phase.busy_s / phase.seconds for phase in phases),
        "stall_share": median(phase.stall_s / phase.seconds for phase in phases),
        "cpu_s": median(phase.cpu_seconds for phase in phases),
        "bytes_read": round(median(phase.bytes_read for phase in phases)),
        "requests": round(median(phase.requests for phase in phases)),
    }


def _device(model: Model) -> Device:
    """Read the model's files with the settings that the readahead has found to be best so far."""
    settings = model.executor.weights.readahead.stats()
    block, depth = settings["request_bytes"], settings["queue_depth"]
    if model.plan.fits:
        return Device(None, block, depth)
    options, files = model.opened.options, model.opened.files.files
    total = sum(Path(file).stat().st_size for file in files)
    try:
        found = _core.bench_io(
            files,
            engine=settings["engine"],
            block_bytes=block,
            queue_depth=depth,
            total_bytes=min(total, DEVICE_BYTES),
            throttle_gbps=options.throttle_gbps,
            latency_us=options.latency_us,
        )
    except AirLLMError as error:
        log.warning("the device's own rate was not measured: %s", error)
        return Device(None, block, depth)
    return Device(found["bytes"] / found["seconds"] / 1e9, block, depth)
