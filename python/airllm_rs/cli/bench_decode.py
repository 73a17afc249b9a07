"""`airllm-rs bench decode`: prefill and decode apart, beside what the machine would allow."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.benchmarks.decode_options import DecodeOptions
from airllm_rs.cli.interruption import leaving_at_once
from airllm_rs.cli.machine import machine
from airllm_rs.cli.options import JsonFlag, ModelArgument, QuietFlag, load_options, takes
from airllm_rs.cli.output import pairs, print_json, print_table, show_log
from airllm_rs.cli.tracing import TraceFlag, save_trace, traced
from airllm_rs.memory import format_bytes
from airllm_rs.stats import choose_progress
from airllm_rs.stats.progress import amount


@takes(load_options)
def bench_decode(
    model: ModelArgument,
    options: LoadOptions,
    tokens: Annotated[int, typer.Option(help="New tokens; the first ends the prefill.")] = 16,
    prompt_tokens: Annotated[int, typer.Option(help="Random tokens of the prompt.")] = 512,
    rounds: Annotated[int, typer.Option(help="Prompts and answers.")] = 3,
    trace: TraceFlag = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure prefill and decode, beside the disk and the memory without a model."""
    show_log(quiet=quiet)
    wanted = DecodeOptions(tokens=tokens, prompt_tokens=prompt_tokens, rounds=rounds)
    options = traced(options, trace)
    progress = choose_progress(options.progress)
    needed = prompt_tokens + tokens
    opened = open_model(model, options, context=lambda _: needed, progress=progress)
    # torch: seconds that planning and its refusals need not spend
    with leaving_at_once():
        import airllm_rs.auto.model  # noqa: F401 - what loading would import
        from airllm_rs.benchmarks.decode import measure

    found = measure(
        opened,
        wanted,
        progress,
        after_close=(lambda model: save_trace(trace, model)) if trace is not None else None,
    )
    point = found.to_json()
    if not as_json:
        print_table(pairs(_summary(point)))
        return
    planned = found.plan
    config = {
        "model": model,
        **asdict(found.options),
        "engine": options.engine,
        "compute_dtype": opened.compute_dtype,
        "throttle_gbps": options.throttle_gbps,
        "latency_us": options.latency_us,
        "budget_bytes": planned.budget_bytes,
        "context": planned.context,
        "chunk_tokens": planned.chunk_tokens,
        "ring_bytes": planned.ring_bytes,
    }
    here = machine(Path(opened.files.files[0]))
    print_json({"machine": here, "config": config, "points": [point]})


def _summary(point: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    prefill, decode, device = point["prefill"], point["decode"], point["device"]
    weights = point["weights"]
    held = f"{format_bytes(weights['resident_bytes'])} resident"
    yield (
        "model",
        f"{format_bytes(weights['total_bytes'])}, {held}, "
        f"{format_bytes(weights['streamed_bytes_per_sweep'])} streamed per sweep",
    )
    yield (
        "prefill",
        f"{prefill['seconds']:.3g} s for {prefill['tokens']} tokens, "
        f"{prefill['tokens_per_s']:.3g} tokens/s",
    )
    samples = decode["samples_s_per_token"]
    yield (
        "decode",
        f"{decode['s_per_token']:.3g} s per token ({min(samples):.3g} to {max(samples):.3g}), "
        f"{decode['tokens_per_s']:.3g} tokens/s",
    )
    if device["gb_per_s"]:
        share = f", {device['decode_share']:.0%}" if device["decode_share"] else ""
        rates = (device["before"]["gb_per_s"], device["after"]["gb_per_s"])
        apart = ", ".join(f"{rate:.2f}" for rate in rates if rate is not None)
        yield (
            "read while decoding",
            f"{decode['gb_per_s']:.2f} GB/s; the device alone {device['gb_per_s']:.2f} "
            f"(before, after: {apart}){share}",
        )
        yield (
            "device busy, waited for",
            f"{decode['busy_share']:.0%}, {decode['stall_share']:.0%} of the time",
        )
    yield (
        "requests",
        f"{decode['requests']} for {amount(decode['bytes_read'], 'B')}, "
        f"{format_bytes(device['block_bytes'])} at most, {device['queue_depth']} in flight",
    )
    yield "CPU", f"{prefill['cpu_s']:.3g} s of prefill, {decode['cpu_s']:.3g} s of decode"
    yield (
        "memory",
        f"{format_bytes(point['peak_bytes'])} at most, {point['memory_gb_per_s']:.1f} GB/s",
    )
    predicted, ratio = point["predicted"], point["measured_over_predicted"]
    beside = f"; measured ÷ predicted: {ratio:.2f}" if ratio else ""
    yield (
        "predicted",
        f"{predicted['s_per_token']:.3g} s per token, limited by the {predicted['limited_by']}"
        + beside,
    )
