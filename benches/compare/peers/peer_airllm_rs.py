"""airllm_rs through its Python interface, for what its command line does not time: warm prefill."""

# ruff: noqa: I001 - the worker starts the clock before the imports that it times
import worker

import torch
from airllm_rs import AutoModel

from greedy import greedy


def load(job: worker.Job) -> worker.Generate:
    """Open the checkpoint in place."""
    torch.set_num_threads(job.threads)
    model = AutoModel.from_pretrained(job.model, memory="auto", context=len(job.prefill) + 16)
    return lambda prompt, tokens: greedy(model, prompt, tokens)


worker.run(load, "airllm_rs", "transformers", "torch")
