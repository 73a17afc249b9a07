"""transformers with all weights in memory, as stored."""

# ruff: noqa: I001 - the worker starts the clock before the imports that it times
import worker

import torch
from transformers import AutoModelForCausalLM

from greedy import greedy


def load(job: worker.Job) -> worker.Generate:
    """Read the whole checkpoint into memory."""
    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype="auto")
    # Parameters may still be views of the mapped files; copies are what "in memory" means.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return lambda prompt, tokens: greedy(model, prompt, tokens)


worker.run(load, "transformers", "torch")
