"""accelerate's disk offload under transformers: what fits on the CPU, the rest in the files."""

# ruff: noqa: I001 - the worker starts the clock before the imports that it times
import worker

import torch
from transformers import AutoModelForCausalLM

from greedy import greedy


def load(job: worker.Job) -> worker.Generate:
    """Place ``resident_bytes`` of weights on the CPU and the rest on the disk."""
    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(
        job.model,
        dtype="auto",
        device_map="auto",
        # Everything in memory is the program `transformers`: unlimited means all on the disk here.
        max_memory={"cpu": job.resident_bytes or 0},
        offload_folder=job.copy,
    )
    return lambda prompt, tokens: greedy(model, prompt, tokens)


worker.run(load, "accelerate", "transformers", "torch")
