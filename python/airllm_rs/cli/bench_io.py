"""`airllm-rs bench io`: what each engine gets from a disk, beside fio."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from airllm_rs.cli.options import JsonFlag, ProgressFlag, QuietFlag
from airllm_rs.cli.output import print_json, print_table, show_log
from airllm_rs.errors import AirLLMError
from airllm_rs.memory import format_bytes, parse_bytes
from airllm_rs.stats import choose_progress

if TYPE_CHECKING:
    from rich.table import Table

    from airllm_rs.benchmarks.io import Point

_NUMBER = re.compile(r"\d{1,6}", re.ASCII)


def bench_io(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Files, or directories whose *.safetensors are read (without any: all files "
            "larger than 8 MiB).",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="uring, direct, buffered or mmap; can be given several times. By default those "
            "that can read.",
            show_default=False,
        ),
    ] = None,
    block: Annotated[str, typer.Option(help="Bytes of a read.")] = "1MiB,4MiB,8MiB",
    depth: Annotated[str, typer.Option(help="Reads in flight.")] = "4,8,16",
    threads: Annotated[
        str | None,
        typer.Option(
            help="Of the engines but uring: in place of --depth.",
            show_default=False,
        ),
    ] = None,
    pages: Annotated[str, typer.Option(help="Of the memory: huge, 4k.")] = "huge,4k",
    cache: Annotated[
        str, typer.Option(help="cold: the page cache is cleared of the files. warm: they are in.")
    ] = "cold",
    nbytes: Annotated[str, typer.Option("--bytes", help="Read for a sample.")] = "1GiB",
    samples: Annotated[int, typer.Option(help="Rounds; each measures every point once.")] = 5,
    fio: Annotated[
        bool | None,
        typer.Option(
            "--fio/--no-fio",
            help="Measure with fio too. By default where it is installed.",
            show_default=False,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="TRACE",
            help="Repeat the reads of a run that was recorded with --trace; from files of the "
            "same names in PATH, if it is given.",
            show_default=False,
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a row per point.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw a chart (.png, .svg).", show_default=False),
    ] = None,
    throttle_gbps: Annotated[
        float | None, typer.Option(help="Slow the disk down to GB/s.", show_default=False)
    ] = None,
    latency_us: Annotated[int, typer.Option(help="Delay each read by microseconds.")] = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    progress: ProgressFlag = None,
) -> None:
    """Measure what each engine gets from a disk, beside fio where it is installed."""
    # what measures need not be imported to tell of other commands
    from airllm_rs.benchmarks import csv_file, io, trace
    from airllm_rs.benchmarks import fio as fio_program
    from airllm_rs.benchmarks import plot as chart
    from airllm_rs.cli.machine import machine

    show_log(quiet=quiet)
    options = io.SweepOptions(
        engines=tuple(engine or ()),
        blocks=tuple(parse_bytes(text, "--block") for text in split("block", block)),
        depths=numbers("depth", depth),
        threads=numbers("threads", threads) if threads is not None else (),
        pages=split("pages", pages),
        caches=split("cache", cache),
        total_bytes=parse_bytes(nbytes, "--bytes"),
        samples=samples,
        throttle_gbps=throttle_gbps,
        latency_us=latency_us,
        # fio cannot pretend to a slower disk
        beside_fio=fio is not False and throttle_gbps is None and not latency_us,
    )
    if fio and not options.beside_fio:
        raise ValueError("--fio cannot be slowed down: leave out --throttle-gbps and --latency-us")
    if fio and replay is not None:
        raise ValueError("--fio cannot repeat a trace: leave out one of --fio and --replay")
    if fio and not fio_program.is_installed():
        raise AirLLMError("fio is not installed: leave out --fio, or install it (apt install fio)")
    if plot is not None:
        chart.require_matplotlib()
    for target in (csv, plot):
        if target is not None:
            trace.check_target(target)
    recorded = None
    if replay is not None:
        recorded = trace.read_trace(replay)
        if paths:
            recorded = recorded.moved_to(paths)
        files = recorded.files
        for file in files:
            file.stat()
    elif paths:
        files = [file for path in paths for file in io.files_at(path)]
    else:
        raise ValueError("give PATH, or --replay TRACE")
    points = io.measure(files, options, choose_progress(progress), replay=recorded)
    if csv is not None:
        csv_file.write_csv(csv, points)
    if plot is not None:
        chart.write_plot(plot, points)
    if not as_json:
        print_table(_table(points, io.best(points)))
        return
    config = {
        "files": [{"path": str(file.absolute()), "nbytes": file.stat().st_size} for file in files],
        "bytes_per_sample": options.total_bytes if recorded is None else recorded.total_bytes,
        "samples": options.samples,
        "replay": str(replay) if replay is not None else None,
        "throttle_gbps": throttle_gbps,
        "latency_us": latency_us,
        "fio": any(point.fio_gbps for point in points),
    }
    told = [point.to_json() for point in points]
    best = points.index(io.best(points))
    print_json({"machine": machine(files[0]), "config": config, "points": told, "best": best})


def _table(points: Sequence["Point"], best: "Point") -> "Table":
    from rich.table import Table

    has_fio = any(point.fio_gbps for point in points)
    table = Table(box=None, pad_edge=False)
    for name in ("", "engine", "block", "depth", "threads", "pages", "cache"):
        table.add_column(name, no_wrap=True)
    for name in ("GB/s", "from", "to", "p50 us", "p99 us", "p99.9 us", "CPU ms/GB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("fio GB/s", "ratio") if has_fio else ():
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        latency = point.latency_us
        theirs = point.fio_gb_per_s
        beside = [f"{theirs:.2f}", f"{point.gb_per_s / theirs:.2f}"] if theirs else ["", ""]
        table.add_row(
            "*" if point is best else "",
            point.engine,
            format_bytes(point.block_bytes),
            str(point.queue_depth),
            str(point.threads),
            point.pages,
            point.cache,
            *(f"{rate:.2f}" for rate in (point.gb_per_s, min(point.rates), max(point.rates))),
            *(f"{latency[name]:.0f}" for name in ("p50", "p99", "p999")),
            f"{point.cpu_ms_per_gb:.1f}",
            *(beside if has_fio else ()),
            style="bold" if point is best else None,
        )
    return table


def split(option: str, text: str) -> tuple[str, ...]:
    """Return the values that commas part in what an option was given."""
    # what is named twice is measured once
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if "" in found:
        raise ValueError(f"--{option} is {text!r}: use values with commas between them")
    return found


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Return the numbers that commas part in what an option was given."""
    parts = split(option, text)
    if not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError(f"--{option} is {text!r}: use numbers such as 4,8,16")
    return tuple(int(part) for part in parts)
