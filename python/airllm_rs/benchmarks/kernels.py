"""`bench kernels`: what each kernel gets from the memory, beside a sum and a copy of bytes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

from airllm_rs import _core
from airllm_rs.benchmarks.kernel_formats import FORMATS, Made, make
from airllm_rs.memory import format_bytes
from airllm_rs.memory.budget import this_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from airllm_rs.stats import Progress

log = logging.getLogger(__name__)

MOST_ROWS = 32
STREAM_BYTES = 1 << 30
"""What is summed and copied, where an eighth of what is free allows it."""
# More than caches hold.
_LEAST_BYTES = 64 << 20
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """What `measure` goes through."""

    formats: tuple[str, ...] = FORMATS
    rows: tuple[int, ...] = (1, 8, 32)
    """Of the activations of products."""
    dtypes: tuple[str, ...] = ("BF16", "F32")
    """What is dequantised to."""
    cols: int = 4096
    total_bytes: int = 200_000_000
    """Of a weight that is multiplied with, and of what dequantising writes."""
    samples: int = 5

    def __post_init__(self) -> None:
        for name, values, accepted in (
            ("formats", self.formats, FORMATS),
            ("dtypes", self.dtypes, tuple(_ITEM_BYTES)),
        ):
            for value in values:
                if value not in accepted:
                    raise ValueError(f"--{name} is {value!r}: use {', '.join(accepted)}")
        for count in self.rows:
            if not 1 <= count <= MOST_ROWS:
                raise ValueError(f"--rows is {count}: use 1 to {MOST_ROWS}")
        if self.cols < 1 or self.cols % 256:
            raise ValueError(f"--cols is {self.cols}: use a multiple of 256")
        for name, number in (("bytes", self.total_bytes), ("samples", self.samples)):
            if number < 1:
                raise ValueError(f"--{name} is {number}: use 1 or more")


@dataclass
class Point:
    """One kernel, and its samples."""

    format: str
    operation: str
    """``linear`` or ``dequantize``; ``stream read`` or ``memcpy`` for what is beside them."""
    rows: int | None
    """Of the activations of a product."""
    dtype: str
    """Of activations and results, or of what is written."""
    nbytes: int
    """Read of the packed weight by a product, written by dequantising."""
    weights: int
    seconds: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """GB/s of each sample."""
        return [self.nbytes / seconds / 1e9 for seconds in self.seconds]

    @property
    def gb_per_s(self) -> float:
        """The median rate."""
        return median(self.rates)

    @property
    def weights_per_s(self) -> float:
        """The median rate in weights."""
        return self.weights / median(self.seconds)


@dataclass
class Group:
    """The kernels of one format, and what was measured between them."""

    points: list[Point]
    stream_read: Point
    memcpy: Point

    def to_json(self) -> list[dict[str, object]]:
        """Return the points under the keys that `bench kernels --json` prints."""
        return [
            {
                "format": point.format,
                "operation": point.operation,
                "rows": point.rows,
                "dtype": point.dtype,
                "bytes": point.nbytes,
                "weights": point.weights,
                "gb_per_s": point.gb_per_s,
                "samples_gb_per_s": point.rates,
                "weights_per_s": point.weights_per_s,
                "stream_read_gb_per_s": self.stream_read.gb_per_s,
                "samples_stream_read_gb_per_s": self.stream_read.rates,
                "memcpy_gb_per_s": self.memcpy.gb_per_s,
                "samples_memcpy_gb_per_s": self.memcpy.rates,
                "stream_read_ratio": point.gb_per_s / self.stream_read.gb_per_s,
            }
            for point in self.points
        ]


def measure(options: KernelOptions, progress: Progress) -> list[Group]:
    """Measure the kernels of one format after the other, each once a round.

    Every other round is in reversed order; a sum and a copy of plain bytes are in every round.
    """
    free = this_machine().free_bytes
    nbytes = max(min(STREAM_BYTES, free // 8), 1 << 20) // 4 * 4
    source = torch.ones(nbytes // 4)
    target = torch.empty_like(source)
    if options.total_bytes < _LEAST_BYTES:
        log.warning(
            "--bytes is %s: caches hold so little, and what is measured is not the memory",
            format_bytes(options.total_bytes),
        )
    groups = []
    with progress.task("bench kernels", len(options.formats), unit="formats") as task:
        for name in options.formats:
            made = make(name, options.cols, options.total_bytes)
            jobs = [*_products(name, made, options), *_dequantizations(name, made, options)]
            read = Point("", "stream read", None, "F32", nbytes, 0)
            copy = Point("", "memcpy", None, "F32", nbytes, 0)
            beside: list[Job] = [(read, source.sum), (copy, lambda: target.copy_(source))]
            _take_turns([*jobs, *beside], options.samples)
            groups.append(Group([point for point, _ in jobs], read, copy))
            task.advance(1)
    return groups


if TYPE_CHECKING:
    Job = tuple[Point, Callable[[], object]]


def _take_turns(jobs: list[Job], samples: int) -> None:
    for _, call in jobs:
        call()
    for number in range(samples):
        for point, call in reversed(jobs) if number % 2 else jobs:
            begun = time.perf_counter()
            call()
            point.seconds.append(time.perf_counter() - begun)


def _products(name: str, made: Made, options: KernelOptions) -> list[Job]:
    size = _ITEM_BYTES[made.dtype]
    cols, results = options.cols, made.weight.shape[0]
    jobs = []
    for rows in options.rows:
        # numbers from one to two, in any of the dtypes
        x = np.full(rows * cols * size, 0x3F, np.uint8)
        out = np.empty(rows * results * size, np.uint8)
        point = Point(name, "linear", rows, made.dtype, made.nbytes, made.numbers)
        jobs.append((point, _product(made, x, out)))
    return jobs


def _product(made: Made, x: np.ndarray, out: np.ndarray) -> Callable[[], object]:
    outs = [(out, 0, made.weight.shape[0])]
    return lambda: _core.linear(x, made.dtype, [made.weight], outs)


def _dequantizations(name: str, made: Made, options: KernelOptions) -> list[Job]:
    jobs = []
    for dtype in options.dtypes:
        row_bytes = options.cols * _ITEM_BYTES[dtype]
        rows = min(max(options.total_bytes // row_bytes, 1), made.weight.shape[0])
        out = np.empty(rows * row_bytes, np.uint8)
        point = Point(name, "dequantize", None, dtype, out.nbytes, rows * options.cols)
        jobs.append((point, _dequantization(made, out, dtype, rows)))
    return jobs


def _dequantization(made: Made, out: np.ndarray, dtype: str, rows: int) -> Callable[[], object]:
    return lambda: _core.dequantize_into(made.weight, out, dtype, 0, rows)


def simd_tier() -> str:
    """Return which kernels run in this process.

    Raises:
        ValueError: if AIRLLM_RS_SIMD names a tier that this processor lacks.
    """
    return _core.simd_tier()
