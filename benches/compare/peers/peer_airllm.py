"""AirLLM on the CPU, which first splits the checkpoint into a second copy, a file per layer."""

# ruff: noqa: I001 - the worker starts the clock before the imports that it times
import worker

import torch
from airllm import AutoModel

from greedy import greedy


def load(job: worker.Job) -> worker.Generate:
    """Open the split copy, making it where it is missing."""
    torch.set_num_threads(job.threads)
    model = AutoModel.from_pretrained(job.model, device="cpu", layer_shards_saving_path=job.copy)
    return lambda prompt, tokens: greedy(model, prompt, tokens)


worker.run(load, "airllm", "transformers", "torch")
