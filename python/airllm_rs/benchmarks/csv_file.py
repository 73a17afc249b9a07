"""The points of `bench io` as a CSV file, a row each."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from airllm_rs.benchmarks.io import Point

COLUMNS = (
    "engine", "block_bytes", "queue_depth", "threads", "pages", "cache", "gb_per_s",
    "latency_p50_us", "latency_p99_us", "latency_p999_us", "cpu_ms_per_gb", "requests",
    "fio_gb_per_s", "fio_ratio", "samples_gb_per_s", "fio_samples_gb_per_s",
)  # fmt: skip


def write_csv(file: Path, points: Sequence[Point]) -> None:
    """Write the points; samples are separated by blanks within their column."""
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for point in points:
            writer.writerow({name: _cell(value) for name, value in _flat(point).items()})


def _flat(point: Point) -> dict[str, object]:
    row = point.to_json()
    latencies = row.pop("latency_us")
    assert isinstance(latencies, dict), "percentiles by name"
    return {**row, **{f"latency_{name}_us": value for name, value in latencies.items()}}


def _cell(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value
