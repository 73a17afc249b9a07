"""`bench io`: what each engine gets from a disk, point by point, in interleaved rounds."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.benchmarks import fio
from airllm_rs.errors import AirLLMError
from airllm_rs.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from airllm_rs.benchmarks.trace import Recorded
    from airllm_rs.stats import Progress

log = logging.getLogger(__name__)

ENGINES = ("uring", "direct", "buffered", "mmap")
PAGES = ("huge", "4k")
CACHES = ("cold", "warm")
SMALLEST_FILE = 8 << 20
"""Of a directory without safetensors, smaller files are not weights."""
MOST_THREADS = 8
"""Of an engine that reads with threads."""
_WARM_BLOCK = 16 << 20


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What `measure` goes through: the product of the tuples."""

    engines: tuple[str, ...] = ()
    """Empty for those that can read the files and may be chosen by themselves."""
    blocks: tuple[int, ...] = (1 << 20, 4 << 20, 8 << 20)
    depths: tuple[int, ...] = (4, 8, 16)
    threads: tuple[int, ...] = ()
    """In place of ``depths`` for the engines that read with threads; empty for the same."""
    pages: tuple[str, ...] = PAGES
    caches: tuple[str, ...] = ("cold",)
    total_bytes: int = 1 << 30
    """Of a sample."""
    samples: int = 5
    throttle_gbps: float | None = None
    latency_us: int = 0
    beside_fio: bool = True
    """Measure with fio too, where it is installed."""

    def __post_init__(self) -> None:
        for name, values, accepted in (
            ("engine", self.engines, ENGINES),
            ("pages", self.pages, PAGES),
            ("cache", self.caches, CACHES),
        ):
            for value in values:
                if value not in accepted:
                    raise ValueError(f"--{name} is {value!r}: use {', '.join(accepted)}")
        for name, numbers in (
            ("block", self.blocks),
            ("depth", self.depths),
            ("threads", self.threads),
            ("bytes", (self.total_bytes,)),
            ("samples", (self.samples,)),
        ):
            for number in numbers:
                if number < 1:
                    raise ValueError(f"--{name} is {number}: use 1 or more")
        if any(number > MOST_THREADS for number in self.threads):
            raise ValueError(f"--threads is {max(self.threads)}: use {MOST_THREADS} or less")
        if self.latency_us < 0:
            raise ValueError(f"--latency-us is {self.latency_us}: use 0 or more")
        if self.throttle_gbps is not None and not self.throttle_gbps > 0:
            raise ValueError(f"--throttle-gbps is {self.throttle_gbps}: use more than 0")


@dataclass
class Point:
    """One way to read, and what its samples found."""

    engine: str
    block_bytes: int
    queue_depth: int
    pages: str
    cache: str
    found: list[_core._Measured] = field(default_factory=list)
    fio_gbps: list[float] = field(default_factory=list)
    fio_memory: str | None = None

    @property
    def threads(self) -> int:
        """Threads that read; uring has none but the one that submits."""
        return 1 if self.engine == "uring" else min(self.queue_depth, MOST_THREADS)

    @property
    def rates(self) -> list[float]:
        """GB/s of each sample."""
        return [_rate(sample) for sample in self.found]

    @property
    def gb_per_s(self) -> float:
        """The median rate."""
        return median(self.rates)

    @property
    def latency_us(self) -> dict[str, float]:
        """The medians of the samples' percentiles."""
        return {
            "p50": median(sample["latency_p50_ns"] for sample in self.found) / 1e3,
            "p99": median(sample["latency_p99_ns"] for sample in self.found) / 1e3,
            "p999": median(sample["latency_p999_ns"] for sample in self.found) / 1e3,
        }

    @property
    def cpu_ms_per_gb(self) -> float:
        """Processor time of the whole process, the median."""
        return median(s["cpu_seconds"] * 1e12 / max(s["bytes"], 1) for s in self.found)

    @property
    def fio_gb_per_s(self) -> float | None:
        """The median rate of fio."""
        return median(self.fio_gbps) if self.fio_gbps else None

    def to_json(self) -> dict[str, object]:
        """Return medians and samples, under the keys that `bench io --json` prints."""
        theirs = self.fio_gb_per_s
        return {
            "engine": self.engine,
            "block_bytes": self.block_bytes,
            "queue_depth": self.queue_depth,
            "threads": self.threads,
            "pages": self.pages,
            "cache": self.cache,
            "gb_per_s": self.gb_per_s,
            "samples_gb_per_s": self.rates,
            "latency_us": self.latency_us,
            "cpu_ms_per_gb": self.cpu_ms_per_gb,
            "requests": self.found[0]["requests"],
            "bytes": self.found[0]["bytes"],
            "cached_bytes": max(sample["cached_bytes"] for sample in self.found),
            "huge_page_bytes": min(sample["huge_page_bytes"] for sample in self.found),
            "features": self.found[0]["features"],
            "fio_gb_per_s": theirs,
            "fio_samples_gb_per_s": list(self.fio_gbps),
            "fio_memory": self.fio_memory,
            "fio_ratio": self.gb_per_s / theirs if theirs else None,
        }


def files_at(path: Path) -> list[Path]:
    """Return the files to read: the path itself, or what a directory holds of weights.

    Raises:
        AirLLMError: if there is nothing to read.
        OSError: if there is no such path.
    """
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if not found:
            inside = (file for file in path.iterdir() if file.is_file())
            found = sorted(file for file in inside if file.stat().st_size > SMALLEST_FILE)
    else:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    filled = [file for file in found if file.stat().st_size]
    if not filled:
        what = f"no *.safetensors and no file larger than {format_bytes(SMALLEST_FILE)}"
        raise AirLLMError(f"{path} has {what if path.is_dir() else 'no bytes'}: nothing to read")
    return filled


def able_engines(file: Path) -> list[str]:
    """Return the engines that can read the file, but for those never chosen by themselves."""
    return [name for name, ok, note, _ in _core.probe_engines(file) if ok and note is None]


def measure(
    files: Sequence[Path],
    options: SweepOptions,
    progress: Progress,
    *,
    replay: Recorded | None = None,
) -> list[Point]:
    """Measure every point once a round, in reversed order every other round.

    Args:
        files: What is read, in this order.
        options: The points.
        progress: Where it is shown.
        replay: Requests to repeat instead of reading blocks; fio is not asked then.

    Raises:
        ValueError: for a block that an engine cannot read.
        AirLLMError: if an engine cannot read the files, or they stay in the page cache.
        OSError: if a file cannot be read.
    """
    able = able_engines(files[0])
    engines = options.engines or tuple(able)
    blocks = options.blocks if replay is None else (replay.largest_bytes,)
    points = [
        Point(engine, block, depth, pages, cache)
        for engine, block, pages, cache in product(engines, blocks, options.pages, options.caches)
        for depth in (engine != "uring" and options.threads) or options.depths
    ]
    has_fio = options.beside_fio and replay is None and fio.is_installed()
    total = sum(file.stat().st_size for file in files)
    if replay is None and total < options.total_bytes:
        log.warning(
            "the files have %s and are read again for samples of %s: a cache of the disk may help",
            format_bytes(total),
            format_bytes(options.total_bytes),
        )
    with ExitStack() as stack:
        task = stack.enter_context(
            progress.task("bench io", len(points) * options.samples, unit="samples")
        )
        memory = "malloc"
        if has_fio and "huge" in options.pages:
            largest = max(point.block_bytes * point.queue_depth for point in points)
            if stack.enter_context(fio.huge_pages(largest)):
                memory = "mmaphuge"
        theirs = "io_uring" if "uring" in able else "libaio"
        for number in range(options.samples):
            backwards = number % 2 == 1
            for point in reversed(points) if backwards else points:
                if has_fio and backwards:
                    has_fio = _beside(point, files, options, theirs, memory)
                point.found.append(_sample(point, files, options, replay))
                if has_fio and not backwards:
                    has_fio = _beside(point, files, options, theirs, memory)
                task.advance(1)
    return points


def best(points: Sequence[Point]) -> Point:
    """Return the fastest point."""
    return max(points, key=lambda point: point.gb_per_s)


def _sample(
    point: Point, files: Sequence[Path], options: SweepOptions, replay: Recorded | None
) -> _core._Measured:
    if point.cache == "warm":
        _read_in(files, options.total_bytes if replay is None else None)
    if replay is not None:
        return _core.bench_io(
            files,
            engine=point.engine,
            queue_depth=point.queue_depth,
            pages=point.pages,
            cache=point.cache,
            requests=replay.requests,
            throttle_gbps=options.throttle_gbps,
            latency_us=options.latency_us,
        )
    return _core.bench_io(
        files,
        engine=point.engine,
        block_bytes=point.block_bytes,
        queue_depth=point.queue_depth,
        pages=point.pages,
        cache=point.cache,
        total_bytes=options.total_bytes,
        throttle_gbps=options.throttle_gbps,
        latency_us=options.latency_us,
    )


def _beside(
    point: Point, files: Sequence[Path], options: SweepOptions, engine: str, memory: str
) -> bool:
    """Measure a point with fio; return whether it is worth trying again."""
    large = fio.large_files(files, point.block_bytes)
    if not large:
        return True
    if point.cache == "warm":
        _read_in(files, options.total_bytes)
    point.fio_memory = memory if point.pages == "huge" else "malloc"
    rate = fio.measure(
        fio.FioRun(
            large,
            point.block_bytes,
            point.queue_depth,
            options.total_bytes,
            point.cache == "cold",
            point.fio_memory,
            engine,
        )
    )
    if rate is None:
        return False
    point.fio_gbps.append(rate)
    return True


def _read_in(files: Sequence[Path], nbytes: int | None) -> None:
    """Read the files, as far as a sample of ``nbytes`` gets, so that the page cache has them.

    Each whole: an engine looks at all of a file to tell whether it is there.
    """
    buffer = bytearray(_WARM_BLOCK)
    read = 0
    for path in files:
        if nbytes is not None and read >= nbytes:
            break
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                read += got


def _rate(sample: _core._Measured) -> float:
    return sample["bytes"] / sample["seconds"] / 1e9 if sample["seconds"] else 0.0
