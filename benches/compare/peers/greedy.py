"""Greedy decoding through transformers' ``generate``, with the instant of each token."""

import time

import torch


class TokenTimes:
    """A streamer that notes when each token arrived; the first call brings the prompt."""

    def __init__(self) -> None:
        self.instants: list[float] = []

    def put(self, _value: torch.Tensor) -> None:
        self.instants.append(time.monotonic())

    def end(self) -> None:
        pass


def greedy(model, prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:  # noqa: ANN001 - transformers' model, or a program's that quacks like one
    """Generate exactly ``tokens`` tokens after ``prompt``."""
    ids = torch.tensor([prompt])
    times = TokenTimes()
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            streamer=times,
        )
    return out[0, len(prompt) :].tolist(), times.instants[1:]
