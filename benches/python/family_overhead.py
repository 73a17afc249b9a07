"""What a decoded token costs per layer in each native family, beside transformers: one table.

    PYTHONPATH=tests/python python benches/python/family_overhead.py [--json]
        [--families gemma2 …] [--dtypes float32 bfloat16] [--rounds 9] [--steps 40] [--layers 6]
        [--threads 2] [--cpu]

Tiny models (hidden 128, everything in memory, batch 1) go on from a cache of 64 tokens. A step of
so small a model is overhead more than arithmetic; it is divided by the layers. Ours and
transformers take turns, step by step; medians are of all steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import warnings
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from airllm_rs import _core
from airllm_rs.auto.loading import load_model
from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.stats.progress import NoProgress
from models.in_tree import KINDS
from tiny import SHAPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from airllm_rs.auto.model import Model

CACHED = 64

WIDE: dict[str, object] = {"hidden_size": 128, "intermediate_size": 192}
MANY: dict[str, object] = {"num_experts": 128, "num_experts_per_tok": 8}
CASES = {
    **{
        model_type: (model_type, keys)
        for name, (model_type, keys) in KINDS.items()
        if name == model_type
    },
    "qwen3_moe, 128 experts": ("qwen3_moe", {**KINDS["qwen3_moe"][1], **MANY}),
}


def checkpoint(path: Path, case: str, layers: int, dtype: torch.dtype) -> None:
    """Write a model of random weights."""
    model_type, keys = CASES[case]
    merged = {**SHAPE, **WIDE, **keys, "num_hidden_layers": layers, "max_position_embeddings": 512}
    if isinstance(kinds := merged.get("layer_types"), list):
        merged["layer_types"] = list(islice(cycle(kinds), layers))
    config = AutoConfig.for_model(model_type, **merged)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.to(dtype).save_pretrained(path)


def measured(
    path: Path, dtype: str, rounds: int, steps: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of each step of both, by ``clock``."""
    opened = open_model(path, LoadOptions(dtype=dtype, context=512), progress=NoProgress())
    ours = load_model(opened, NoProgress())
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
    found: dict[str, list[float]] = {"ours": [], "transformers": []}
    prompt = torch.arange(CACHED)[None] % 100 + 3
    for number in range(rounds + 1):
        caches = {
            "ours": ours.new_cache(1, CACHED + steps),
            "transformers": DynamicCache(config=theirs.config),
        }
        models: dict[str, Model | PreTrainedModel] = {"ours": ours, "transformers": theirs}
        for name, model in models.items():
            model(prompt, past_key_values=caches[name], use_cache=True)
        for step in range(steps):
            token = torch.tensor([[3 + step]])
            for name in sorted(models, reverse=bool(step % 2)):
                started = clock()
                models[name](token, past_key_values=caches[name], use_cache=True)
                if number:  # the first round warms up
                    found[name].append(clock() - started)
    ours.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="processor time, for a busy machine")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu else time.perf_counter
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.simplefilter("ignore")
    rows = []
    for case in options.families:
        for dtype in options.dtypes:
            with tempfile.TemporaryDirectory() as directory, torch.inference_mode():
                path = Path(directory)
                with torch.inference_mode(mode=False):
                    checkpoint(path, case, options.layers, getattr(torch, dtype))
                found = measured(path, dtype, options.rounds, options.steps, clock)
            per_layer = {
                name: statistics.median(seconds) * 1e3 / options.layers
                for name, seconds in found.items()
            }
            ratio = per_layer["ours"] / per_layer["transformers"]
            rows.append({"family": case, "dtype": dtype, "ms_per_layer": per_layer, "ratio": ratio})
            if not options.json:
                ours, theirs = per_layer["ours"], per_layer["transformers"]
                print(f"{case:24}{dtype:10}{ours:8.3f} ms{theirs:8.3f} ms{ratio:6.2f}", flush=True)
    if options.json:
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "build_profile": _core.__build_profile__,
            "threads": options.threads,
        }
        print(json.dumps({"machine": machine, "config": vars(options), "families": rows}))


if __name__ == "__main__":
    main()
