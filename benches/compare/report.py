"""From samples to medians, and from medians to a table."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

GIB = 1 << 30


class Point(TypedDict):
    """One run of one program; what a program does not have is None."""

    limit_bytes: int | None
    program: str
    round: int
    failure: str | None
    import_s: float | None
    load_s: float | None
    first_token_s: float | None  # from the call that generates
    start_to_first_token_s: float | None  # from the start of the process
    s_per_token: float | None
    token_ids: list[int]
    prefill_s: list[float]
    failcnt: int | None
    max_usage_bytes: int | None
    peak_anon_bytes: int
    peak_file_bytes: int
    peak_rss_bytes: int
    major_faults_in_decode: int | None
    read_bytes: int
    others_cores: float  # what the rest of the machine did meanwhile, the kernel's threads included
    cached_bytes_after: int
    streamed_bytes_per_sweep: int | None
    fio_gb_per_s: list[float]  # just before and just after
    own_report: dict[str, object] | None  # what `airllm-rs run --json` printed


class Row(TypedDict):
    """The runs of one program under one limit: medians of times, the worst of everything else."""

    program: str
    runs: int
    failure: str | None
    load_s: float | None
    start_to_first_token_s: float | None
    s_per_token: float | None
    s_per_token_range: tuple[float, float] | None
    times_ours: float | None
    prefill_s: float | None
    fio_gb_per_s: float | None
    failcnt: int | None
    max_usage_bytes: int | None
    peak_anon_bytes: int
    peak_file_bytes: int
    peak_rss_bytes: int
    major_faults_in_decode: int | None
    read_bytes: int
    cached_bytes_after: int


def seconds_per_token(instants: Sequence[float]) -> float | None:
    """Return decode's seconds per token: the first token belongs to the prompt."""
    if len(instants) < 2:
        return None
    return (instants[-1] - instants[0]) / (len(instants) - 1)


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that there are."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def worst(values: Iterable[int | None]) -> int | None:
    """Return the highest of the values that there are."""
    return max((value for value in values if value is not None), default=None)


def row_of(program: str, points: Sequence[Point], ours: float | None) -> Row:
    """Sum up the runs of one program; ``ours`` is our median of seconds per token."""
    good = [point for point in points if point["failure"] is None]
    failures = [point["failure"] for point in points if point["failure"] is not None]
    steps = [point["s_per_token"] for point in good if point["s_per_token"] is not None]
    step = median(steps)
    return Row(
        program=program,
        runs=len(good),
        failure=failures[0] if failures else None,
        load_s=median(point["load_s"] for point in good),
        start_to_first_token_s=median(point["start_to_first_token_s"] for point in good),
        s_per_token=step,
        s_per_token_range=(min(steps), max(steps)) if steps else None,
        times_ours=step / ours if step and ours else None,
        # The first prefill of a process pays for what the later ones find ready.
        prefill_s=median(min(point["prefill_s"], default=None) for point in good),
        fio_gb_per_s=median(median(point["fio_gb_per_s"]) for point in good),
        failcnt=worst(point["failcnt"] for point in good),
        max_usage_bytes=worst(point["max_usage_bytes"] for point in good),
        peak_anon_bytes=worst(point["peak_anon_bytes"] for point in good) or 0,
        peak_file_bytes=worst(point["peak_file_bytes"] for point in good) or 0,
        peak_rss_bytes=worst(point["peak_rss_bytes"] for point in good) or 0,
        major_faults_in_decode=worst(point["major_faults_in_decode"] for point in good),
        read_bytes=worst(point["read_bytes"] for point in good) or 0,
        cached_bytes_after=worst(point["cached_bytes_after"] for point in good) or 0,
    )


def rows_of(points: Sequence[Point], ours: str) -> list[Row]:
    """Sum up runs under one limit, a row per program in the order of their first run."""
    by_program: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point["round"]):
        by_program.setdefault(point["program"], []).append(point)
    our_points = by_program.get(ours, [])
    our_step = median(point["s_per_token"] for point in our_points if point["failure"] is None)
    return [row_of(program, runs, our_step) for program, runs in by_program.items()]


def disk_ratio(point: Point) -> float | None:
    """Return a run's seconds per token over those that fio, beside it, would need for its bytes."""
    step, nbytes = point["s_per_token"], point["streamed_bytes_per_sweep"]
    fio = median(point["fio_gb_per_s"])
    return step / (nbytes / 1e9 / fio) if step and nbytes and fio else None


COLUMNS: Mapping[str, str] = {
    "program": "program",
    "load_s": "load s",
    "start_to_first_token_s": "1st token s",
    "s_per_token": "s/token",
    "s_per_token_range": "range",
    "times_ours": "x ours",
    "prefill_s": "prefill s",
    "fio_gb_per_s": "fio GB/s",
    "failcnt": "failcnt",
    "max_usage_bytes": "charged GiB",
    "peak_anon_bytes": "anon GiB",
    "peak_file_bytes": "file GiB",
    "peak_rss_bytes": "rss GiB",
    "major_faults_in_decode": "majflt",
    "read_bytes": "read GiB",
    "cached_bytes_after": "cached GiB",
}


def cell(key: str, value: object) -> str:
    """Write one value of a row."""
    match value:
        case None:
            return "-"
        case (float(low), float(high)):
            return f"{low:.3g}-{high:.3g}"
        case int() if key.endswith(("_bytes", "_after")):
            return f"{value / GIB:.2f}"
        case float():
            return f"{value:.3g}" if value < 100 else f"{value:.0f}"
        case _:
            return str(value)


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out in columns; a program that never ran says why."""
    lines = [list(COLUMNS.values())]
    lines += [[cell(key, value) for key, value in _columns(row)] for row in rows if row["runs"]]
    widths = [max(len(line[index]) for line in lines) for index in range(len(COLUMNS))]
    text = [
        "  ".join(
            value.ljust(width) if index == 0 else value.rjust(width)
            for index, (value, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    text += [
        f"{row['program']}: {'some runs' if row['runs'] else 'every run'} failed: {row['failure']}"
        for row in rows
        if row["failure"] is not None
    ]
    return "\n".join(text)


def _columns(row: Row) -> Iterable[tuple[str, object]]:
    values: Mapping[str, object] = row
    return [(key, values[key]) for key in COLUMNS]
