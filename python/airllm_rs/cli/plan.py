"""`airllm-rs plan`: what would be resident and streamed, and what a token would cost."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from airllm_rs.auto.opening import Opened, open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.checkpoint.collection import paused_collection
from airllm_rs.cli.options import JsonFlag, ModelArgument, QuietFlag, load_options, takes
from airllm_rs.cli.output import pairs, print_json, print_table, show_log
from airllm_rs.errors import BudgetError
from airllm_rs.memory import format_bytes, smallest_budget
from airllm_rs.memory.prediction import DISK, MEMORY, Rate, predict
from airllm_rs.memory.report import infeasible_json, to_json
from airllm_rs.stats import choose_progress
from airllm_rs.weights.devices import recall
from airllm_rs.weights.experience import recall_rate

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
            f"runs, else {DISK.gbps:g}.",
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
        with paused_collection():
            opened = open_model(model, options, progress=choose_progress(options.progress))
    except BudgetError as error:
        if as_json:
            print_json(infeasible_json(error))
        raise
    disk, memory = _rates(opened, disk_gbps)
    if as_json:
        extra = {
            "budget_source": opened.budget.source,
            "compute_dtype": opened.compute_dtype,
            "quantization": opened.files.schemes or None,
        }
        print_json({**to_json(opened.plan, disk, memory), **extra})
        return
    print_table(_parts(opened))
    print_table(pairs(_consequences(opened, disk, memory)))


def _rates(opened: Opened, disk_gbps: float | None) -> tuple[Rate, Rate]:
    """Return what is known about disk and memory, on this machine."""
    disk, memory = DISK, MEMORY
    if opened.options.ram is None:
        files = opened.files.files
        settings, used = recall(files[0]), recall_rate(opened.plan, files)
        disk = Rate(settings.gbps, "measured") if settings else disk
        memory = Rate(used, "measured") if used else memory
    return Rate(disk_gbps, "given") if disk_gbps else disk, memory


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


def _consequences(opened: Opened, disk: Rate, memory: Rate) -> Iterator[tuple[str, str]]:
    planned = opened.plan
    inputs = planned.inputs
    schemes = opened.files.schemes.items()
    packed = "".join(f", {count} packed as {name}" for name, count in schemes)
    yield "weights", f"{format_bytes(planned.total_bytes)} in all{packed}"
    streamed = planned.streamed_bytes_per_sweep
    share = streamed / planned.total_bytes if planned.total_bytes else 0
    yield "streamed", f"{format_bytes(streamed)} for every token ({share:.0%})"
    sweeps = planned.sweeps(planned.context * planned.max_num_seqs)
    plural = "s" if sweeps > 1 else ""
    yield "a prompt", f"{sweeps} sweep{plural} for {planned.context} tokens"
    predicted = predict(planned, disk, memory)
    yield "a token", f"{predicted['s_per_token']:.3g} s, limited by the {predicted['limited_by']}"
    changes = "" if disk.source == "given" else "; --disk-gbps changes it"
    yield "  the disk", f"{disk.gbps:.3g} GB/s, {disk.source}{changes}"
    yield "  the memory", f"{memory.gbps:.3g} GB/s, {memory.source}"
    smallest = smallest_budget(inputs.config, inputs.files, inputs.request)
    yield "smallest", f"--memory {format_bytes(smallest)}"
