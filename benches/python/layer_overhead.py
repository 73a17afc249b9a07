"""What Python costs per layer and decoded token, beside transformers: one JSON object.

    python benches/python/layer_overhead.py [--layers 28] [--steps 200] [--rounds 9]

A Llama whose matrices are 64 x 64 (float32, batch 1) decodes token after token: in transformers, in
ours with everything in memory, and in ours with every matrix streamed through the ring from a file
that the page cache does not hold; the time that it waited for the disk is taken off, since reads of
16 KiB are all latency. What is left of a step, divided by the layers, is overhead, a few
microseconds of arithmetic included. Rounds are interleaved; medians are of rounds.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

from airllm_rs import _core
from airllm_rs.auto.loading import load_model
from airllm_rs.auto.model import Model
from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.memory import PlanLimits, plan
from airllm_rs.stats.progress import NoProgress

CONTEXT = 512
VOCAB = 256


def checkpoint(path: Path, layers: int) -> None:
    """Write the model."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)  # type: ignore[no-untyped-call]


def load(path: Path, *, streamed: bool) -> Model:
    """Open the model with everything in memory, or with everything that may stream streamed."""
    opened = open_model(path, LoadOptions(dtype="float32", context=CONTEXT), progress=NoProgress())
    if streamed:
        inputs = opened.plan.inputs
        # a unit per matrix, and a ring for two of them: the hardest case
        limits = PlanLimits(resident_below=0, group_bytes=0)
        request = replace(inputs.request, limits=limits)
        everything = plan(inputs.config, inputs.files, request)
        cap = everything.resident_bytes // 2
        made = plan(inputs.config, inputs.files, replace(request, weights_bytes=cap))
        opened = replace(opened, plan=made)
    return load_model(opened, NoProgress())


def ours(model: Model) -> Callable[[int], None]:
    """Return what decodes so many tokens."""

    def run(steps: int) -> None:
        cache = model.new_cache(1, steps + 8)
        token = torch.tensor([[1]])
        for _ in range(steps):
            model(token, cache=cache, use_cache=True)

    return run


def theirs(path: Path) -> Callable[[int], None]:
    """Return what decodes so many tokens in transformers."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)

    def run(steps: int) -> None:
        cache = DynamicCache()
        token = torch.tensor([[1]])
        for _ in range(steps):
            model(token, cache=cache, use_cache=True)

    return run


def stall_s(model: Model) -> float:
    """Return the seconds that the model has waited for the disk."""
    return model.executor.weights.readahead.stats()["stall_ns"] / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, torch.inference_mode():
        path = Path(directory)
        checkpoint(path, options.layers)
        resident, streamed = load(path, streamed=False), load(path, streamed=True)
        share = streamed.plan.streamed_bytes_per_sweep / streamed.plan.total_bytes
        ways = {
            "transformers": theirs(path),
            "resident": ours(resident),
            "streamed": ours(streamed),
        }
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for run in ways.values():
            run(8)
        for _ in range(options.rounds):
            for name, run in ways.items():
                started, waited = time.perf_counter(), stall_s(streamed)
                run(options.steps)
                waited = stall_s(streamed) - waited
                seconds = (time.perf_counter() - started - waited) / options.steps
                samples[name].append(seconds * 1e3 / options.layers)
        report = {
            "machine": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "build_profile": _core.__build_profile__,
                "threads": torch.get_num_threads(),
            },
            "config": vars(options) | {"streamed_share": share},
            "ms_per_layer": {name: statistics.median(found) for name, found in samples.items()},
            "samples_ms_per_layer": samples,
        }
        resident.close()
        streamed.close()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
