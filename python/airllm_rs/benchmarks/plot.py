"""The points of `bench io` as a chart: rate over queue depth, a panel per engine."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from airllm_rs.errors import MissingDependencyError
from airllm_rs.memory import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from airllm_rs.benchmarks.io import Point

_MARKERS = {"huge": "o", "4k": "x"}
_LINES = {"cold": "-", "warm": "--"}


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

    engines = list(dict.fromkeys(point.engine for point in points))
    blocks = list(dict.fromkeys(point.block_bytes for point in points))
    depths = sorted({point.queue_depth for point in points})
    figure = Figure(figsize=(5 * len(engines), 5), layout="constrained")
    panels = figure.subplots(1, len(engines), sharey=True, squeeze=False)[0]
    for axes, engine in zip(panels, engines, strict=True):
        lines: dict[tuple[int, str, str], list[Point]] = defaultdict(list)
        for point in points:
            if point.engine == engine:
                lines[point.block_bytes, point.pages, point.cache].append(point)
        for (block, pages, cache), held in lines.items():
            look = {"color": f"C{blocks.index(block) % 10}", "marker": _MARKERS[pages]}
            label = f"{format_bytes(block)}, {pages}, {cache}"
            _draw(axes, held, label, {**look, "linestyle": _LINES[cache]})
        axes.set_title(engine)
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.set_xlabel("queue depth")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    panels[0].set_ylabel("GB/s (dotted: fio)")
    panels[0].set_ylim(bottom=0)
    figure.savefig(file)


def _draw(axes: Axes, held: list[Point], label: str, look: dict[str, Any]) -> None:
    held.sort(key=lambda point: point.queue_depth)
    depths = [point.queue_depth for point in held]
    rates = [point.gb_per_s for point in held]
    below = [point.gb_per_s - min(point.rates) for point in held]
    above = [max(point.rates) - point.gb_per_s for point in held]
    axes.errorbar(depths, rates, yerr=[below, above], capsize=3, label=label, **look)
    theirs = [
        (point.queue_depth, point.fio_gb_per_s) for point in held if point.fio_gb_per_s is not None
    ]
    if theirs:
        axes.plot(*zip(*theirs, strict=True), **{**look, "linestyle": ":", "alpha": 0.6})
