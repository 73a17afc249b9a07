"""neurostream on the CPU, over a GGUF file of the Qwen3 shape."""

# ruff: noqa: I001 - the worker starts the clock before the imports that it times
import worker

import time

import torch
from neurostream.api import NeuroStream
from neurostream.model.qwen3 import KVCache

RING_BYTES = 512 << 20  # its arena for streamed blocks: a quarter of its default


def load(job: worker.Job) -> worker.Generate:
    """Keep ``resident_bytes`` of the file in memory and stream the rest."""
    torch.set_num_threads(job.threads)
    resident = 1 << 60 if job.resident_bytes is None else job.resident_bytes
    stream = NeuroStream.load(job.copy, mem_budget=RING_BYTES, ram_budget=resident, device="cpu")

    def generate(prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
        cache = KVCache(stream.cfg.n_layer)
        step, position = torch.tensor(prompt), 0
        token_ids: list[int] = []
        instants: list[float] = []
        with torch.no_grad():
            for _ in range(tokens):
                logits = stream.model.forward(step, cache, start_pos=position)
                token_ids.append(int(logits[-1].argmax()))
                instants.append(time.monotonic())
                position += len(step)
                step = torch.tensor(token_ids[-1:])
        return token_ids, instants

    return generate


worker.run(load, "neurostream", "torch")
