"""`airllm-rs bench kernels`: each kernel, beside what the memory gives."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from airllm_rs.cli.options import JsonFlag, ProgressFlag, QuietFlag
from airllm_rs.cli.output import print_json, print_table, show_log
from airllm_rs.memory import parse_bytes
from airllm_rs.stats import choose_progress

if TYPE_CHECKING:
    from rich.table import Table

    from airllm_rs.benchmarks.kernels import Group

TIER_VARIABLE = "AIRLLM_RS_SIMD"
TIERS = ("scalar", "neon", "avx2", "avx512", "avx512bf16")


def bench_kernels(
    formats: Annotated[
        str | None,
        typer.Option(
            help="Such as bf16,4bit,Q4_K; affine4 is GPTQ's and AWQ's, mxfp4 that of safetensors, "
            "names in capitals are GGUF's. By default all.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[str, typer.Option(help="Rows of activations that are multiplied.")] = "1,8,32",
    cols: Annotated[int, typer.Option(help="Columns of the weights.")] = 4096,
    nbytes: Annotated[
        str,
        typer.Option(
            "--bytes",
            help="Of the packed weight, and of what dequantising writes; more than caches hold.",
        ),
    ] = "200MB",
    samples: Annotated[int, typer.Option(help="Rounds; each measures every kernel once.")] = 5,
    tier: Annotated[
        str | None,
        typer.Option(
            help="scalar, avx2, avx512, avx512bf16 or neon: the kernels to run, as "
            f"{TIER_VARIABLE} names them. By default the best that the processor has.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    progress: ProgressFlag = None,
) -> None:
    """Measure each kernel on weights that no cache holds, beside a sum and a copy of bytes."""
    # what measures need not be imported to tell of other commands
    from airllm_rs.benchmarks.kernel_formats import FORMATS
    from airllm_rs.benchmarks.kernels import KernelOptions, measure, simd_tier
    from airllm_rs.cli.bench_io import numbers, split
    from airllm_rs.cli.machine import machine

    show_log(quiet=quiet)
    options = KernelOptions(
        formats=FORMATS if formats is None else split("formats", formats),
        rows=numbers("rows", rows),
        cols=cols,
        total_bytes=parse_bytes(nbytes, "--bytes"),
        samples=samples,
    )
    if tier not in (None, *TIERS):
        raise ValueError(f"--tier is {tier!r}: use {', '.join(TIERS)}")
    if tier is not None:
        # the extension looks once, when it is asked for the first time
        os.environ[TIER_VARIABLE] = tier
    found_tier = simd_tier()
    if tier not in (None, found_tier):
        raise ValueError(f"--tier is {tier!r}: this process has begun with {found_tier}")
    groups = measure(options, choose_progress(progress))
    if not as_json:
        print_table(_table(groups, found_tier))
        return
    config = {**asdict(options), "tier": found_tier}
    points = [point for group in groups for point in group.to_json()]
    print_json({"machine": machine(Path.cwd()), "config": config, "points": points})


def _table(groups: Sequence["Group"], tier: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=f"kernels: {tier}", title_justify="left")
    for name in ("format", "kernel", "rows", "dtype"):
        table.add_column(name, no_wrap=True)
    for name in ("GB/s", "from", "to", "G weights/s", "of a sum", "sum GB/s", "copy GB/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        read, copy = group.stream_read.gb_per_s, group.memcpy.gb_per_s
        for point in group.points:
            rates = (point.gb_per_s, min(point.rates), max(point.rates))
            table.add_row(
                point.format,
                point.operation,
                "" if point.rows is None else str(point.rows),
                point.dtype,
                *(f"{rate:.2f}" for rate in rates),
                f"{point.weights_per_s / 1e9:.2f}",
                f"{point.gb_per_s / read:.0%}",
                f"{read:.2f}",
                f"{copy:.2f}",
            )
    return table
