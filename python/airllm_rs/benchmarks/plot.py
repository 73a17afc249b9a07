"""The points of `bench io` as a chart: rate over queue depth, a line per way to read."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from airllm_rs.errors import MissingDependencyError
from airllm_rs.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from airllm_rs.benchmarks.io import Point


def require_matplotlib() -> None:
    """Raise now rather than after an hour of measuring.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingDependencyError(
            "charts need matplotlib: pip install 'airllm_rs[bench]'"
        ) from error


def write_plot(file: Path, points: Sequence[Point]) -> None:
    """Draw median rates, with bars from the slowest sample to the fastest; fio's are dotted.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
        OSError: if the file cannot be written.
    """
    require_matplotlib()
    # the figure itself: pyplot would look for a display
    from matplotlib.figure import Figure

    lines: dict[tuple[str, str, str, int], list[Point]] = defaultdict(list)
    for point in points:
        lines[point.engine, point.pages, point.cache, point.block_bytes].append(point)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for (engine, pages, cache, block), held in lines.items():
        held.sort(key=lambda point: point.queue_depth)
        depths = [point.queue_depth for point in held]
        rates = [point.gb_per_s for point in held]
        samples = [point.rates for point in held]
        spread = [
            [rate - min(found) for rate, found in zip(rates, samples, strict=True)],
            [max(found) - rate for rate, found in zip(rates, samples, strict=True)],
        ]
        label = f"{engine}, {format_bytes(block)}, {pages}, {cache}"
        drawn = axes.errorbar(depths, rates, yerr=spread, marker="o", capsize=3, label=label)
        theirs = [
            (point.queue_depth, point.fio_gb_per_s)
            for point in held
            if point.fio_gb_per_s is not None
        ]
        if theirs:
            color = drawn.lines[0].get_color()
            axes.plot(*zip(*theirs, strict=True), linestyle=":", marker=".", color=color)
    axes.set_xlabel("queue depth")
    axes.set_ylabel("GB/s (dotted: fio)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file)
