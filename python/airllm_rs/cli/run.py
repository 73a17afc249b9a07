"""`airllm-rs run`: generate once, and tell what it took."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airllm_rs.auto.bridging import read_any_config
from airllm_rs.auto.loading import load_model
from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.auto.prompts import MAX_NEW_TOKENS, Sampling
from airllm_rs.cli.below_text import BelowText
from airllm_rs.cli.interruption import leaving_at_once
from airllm_rs.cli.options import JsonFlag, ModelArgument, QuietFlag, load_options, takes
from airllm_rs.cli.output import pairs, print_json, print_table, show_log
from airllm_rs.cli.prompt import most_tokens, read_prompt
from airllm_rs.cli.tracing import TraceFlag, save_trace, traced
from airllm_rs.memory import format_bytes
from airllm_rs.stats import Progress, Task, choose_progress
from airllm_rs.stats.progress import BarProgress, amount

if TYPE_CHECKING:
    from airllm_rs.checkpoint import ModelFiles

_Count = int | None
_Number = float | None


def _sampling(text: str) -> object:
    return typer.Option(help=text, show_default=False)


@takes(load_options)
def run(
    model: ModelArgument,
    options: LoadOptions,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="By default what stdin holds.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Stop after so many.")] = MAX_NEW_TOKENS,
    raw: Annotated[bool, typer.Option("--raw", help="Continue PROMPT; no chat template.")] = False,
    system: Annotated[
        str | None, typer.Option(help="The system message.", show_default=False)
    ] = None,
    temperature: Annotated[
        _Number, _sampling("0 is greedy. By default, as the model says.")
    ] = None,
    top_p: Annotated[_Number, _sampling("Sample from the likeliest with this sum.")] = None,
    top_k: Annotated[_Count, _sampling("Sample from so many.")] = None,
    min_p: Annotated[_Number, _sampling("Least share of the likeliest's probability.")] = None,
    repetition_penalty: Annotated[
        _Number, _sampling("Above 1, what was said is less likely.")
    ] = None,
    seed: Annotated[_Count, _sampling("Makes sampling repeatable.")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Where to stop; can be given several times.", show_default=False
        ),
    ] = None,
    trace: TraceFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Generate once: text on stdout as it is made, then a table on stderr."""
    show_log(quiet=quiet)
    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop or (),
    )
    options = traced(options, trace)
    text = read_prompt(prompt)

    def context(files: "ModelFiles") -> int:
        needed = most_tokens(files.path, [text, system or ""]) + sampling.max_new_tokens
        config = read_any_config(files.config, options.config_overrides)
        return min(needed, config.max_position_embeddings)

    progress = AroundText(choose_progress(options.progress))
    opened = open_model(model, options, context=context, progress=progress)
    with load_model(opened, progress, importing=leaving_at_once()) as loaded:
        stream = loaded.stream(text, system=system, raw=raw, **asdict(sampling))
        for piece in stream:
            if not as_json:
                progress.text_begins()
                sys.stdout.write(piece)
                sys.stdout.flush()
        if not as_json:
            sys.stdout.write("\n")
            sys.stdout.flush()
        stats = loaded.stats
        ring_bytes = loaded.plan.ring_bytes
    if trace is not None:
        save_trace(trace, loaded)
    if as_json:
        answer = {
            "text": stream.text,
            "token_ids": stream.token_ids,
            "prompt_tokens": stream.prompt_tokens,
            "new_tokens": len(stream.token_ids),
            "finish_reason": stream.finish_reason,
        }
        print_json({**answer, **stats})
    elif not quiet:
        print_table(pairs(_summary(stats, ring_bytes)), stderr=True)


class AroundText:
    """Shows progress above text that has not begun, and below text that has."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def text_begins(self) -> None:
        """Keep out of the way of text on the terminal that bars are drawn on."""
        if isinstance(self._progress, BarProgress) and sys.stdout.isatty():
            self._progress = BelowText()

    def task(
        self, label: str, total: int | None, *, unit: str = "B"
    ) -> AbstractContextManager[Task]:
        """Begin something."""
        return self._progress.task(label, total, unit=unit)


def _summary(stats: Mapping[str, Any], ring_bytes: int) -> Iterator[tuple[str, str]]:
    timings, weights, io, memory = (stats[k] for k in ("timings", "weights", "io", "memory"))
    held = f"{format_bytes(weights['resident_bytes'])} resident"
    if ring_bytes:
        held += f", {format_bytes(ring_bytes)} ring"
    streamed = weights["streamed_bytes_per_sweep"]
    yield "model", format_bytes(weights["total_bytes"])
    yield "weights in memory", held
    yield "streamed", f"{format_bytes(streamed)} per sweep" if streamed else "nothing"
    rate = f", {io['gb_per_s']:.2f} GB/s while busy" if io["busy_s"] else ""
    yield "read", f"{amount(io['bytes_read'], 'B')} by {io['engine']}{rate}"
    yield "waited for the disk", f"{io['stall_s']:.2f} s"
    yield (
        "first token",
        f"after {timings['first_token_s']:.2f} s, loading {timings['load_s']:.2f} s",
    )
    if timings["s_per_token"]:
        pace = f"{timings['tokens_per_s']:.2f} tokens/s"
        yield "speed", f"{pace}, {timings['s_per_token']:.3g} s per token, {stats['sweeps']} sweeps"
    peak, budget = memory["peak_bytes"], memory["budget_bytes"]
    mapped = f"{format_bytes(memory['file_mapped_bytes'])} of files mapped"
    yield "memory", f"{format_bytes(peak)} at most, {mapped}, of {format_bytes(budget)} allowed"
