"""`airllm-rs plan`: what would be resident and streamed, and what a token would cost."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from airllm_rs.auto.opening import Opened, open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.cli.options import JsonFlag, ModelArgument, QuietFlag, load_options, takes
from airllm_rs.cli.output import pairs, print_json, print_table, show_log
from airllm_rs.errors import BudgetError
from airllm_rs.memory import MemoryPlan, format_bytes, smallest_budget
from airllm_rs.memory.report import DISK_GBPS, MEMORY_GBPS, infeasible_json, predict, to_json
from airllm_rs.stats import choose_progress
from airllm_rs.weights.devices import recall

if TYPE_CHECKING:
    from rich.table import Table

_BAR = 32


@takes(load_options)
def plan(
    model: ModelArgument,
    options: LoadOptions,
    disk_gbps: Annotated[
        float | None,
        typer.Option(
            help="What the disk gives, for the prediction; by default what it gave to earlier "
            f"runs, else {DISK_GBPS:g}.",
            show_default=False,
        ),
    ] = None,
    ram: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT",
            help="Plan for a machine with so much memory, all of it available.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show how the memory would be divided, and the smallest budget that works."""
    show_log(quiet=quiet)
    if disk_gbps is not None and not disk_gbps > 0:
        raise ValueError(f"disk_gbps is {disk_gbps}: use more than 0")
    options = replace(options, ram=ram, may_make=False)
    try:
        opened = open_model(model, options, progress=choose_progress(options.progress))
    except BudgetError as error:
        if as_json:
            print_json(infeasible_json(error))
        raise
    if disk_gbps is None and ram is None:
        known = recall(opened.files.files[0])
        disk_gbps = known.gbps if known else None
    if as_json:
        extra = {"budget_source": opened.budget.source, "compute_dtype": opened.compute_dtype}
        print_json({**to_json(opened.plan, disk_gbps=disk_gbps), **extra})
        return
    print_table(_parts(opened))
    print_table(pairs(_consequences(opened.plan, disk_gbps)))


def _parts(opened: Opened) -> "Table":
    """Return the budget's parts, each with its bytes and a bar."""
    from rich.table import Table

    planned = opened.plan
    table = Table(box=None, pad_edge=False, title=str(opened.budget), title_justify="left")
    table.add_column("for")
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("of the budget", no_wrap=True)
    sequences = f", {planned.max_num_seqs} sequences" if planned.max_num_seqs > 1 else ""
    kept = f"{len(planned.residents)} of {len(planned.units)} units"
    rows = (
        ("the process without a model", planned.baseline_bytes),
        ("margin", planned.margin_bytes),
        (f"KV cache ({planned.context} tokens{sequences})", planned.kv_bytes),
        (f"activations ({planned.chunk_tokens} tokens at a time)", planned.activation_bytes),
        ("conversions, embedding rows", planned.scratch_bytes),
        ("ring for streamed weights", planned.ring_bytes),
        (f"resident weights ({kept})", planned.resident_bytes),
        ("left over", planned.budget_bytes - planned.planned_bytes),
    )
    for name, nbytes in rows:
        share = nbytes / planned.budget_bytes
        bar = "█" * round(share * _BAR)
        table.add_row(name, format_bytes(nbytes), f"{bar} {share:.0%}".strip())
    return table


def _consequences(planned: MemoryPlan, disk_gbps: float | None) -> Iterator[tuple[str, str]]:
    inputs = planned.inputs
    yield "weights", f"{format_bytes(planned.total_bytes)} in all"
    streamed = planned.streamed_bytes_per_sweep
    share = streamed / planned.total_bytes if planned.total_bytes else 0
    yield "streamed", f"{format_bytes(streamed)} for every token ({share:.0%})"
    sweeps = planned.sweeps(planned.context * planned.max_num_seqs)
    plural = "s" if sweeps > 1 else ""
    yield "a prompt", f"{sweeps} sweep{plural} for {planned.context} tokens"
    rate = disk_gbps or DISK_GBPS
    predicted = predict(planned, rate, MEMORY_GBPS)
    limit = f"the memory (at {MEMORY_GBPS:g} GB/s)"
    if predicted["limited_by"] == "disk":
        limit = f"the disk (at {rate:g} GB/s; --disk-gbps changes it)"
    yield "a token", f"{predicted['s_per_token']:.3g} s, limited by {limit}"
    smallest = smallest_budget(inputs.config, inputs.files, inputs.request)
    yield "smallest", f"--memory {format_bytes(smallest)}"
