"""Logits that the makers' own code made of the cases, recorded once.

    PYTHONPATH=tests/python python -m models.originals.golden

records them again, where ``deep-training`` is installed (``make test-originals`` sets it up).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.originals.cases import CASES, PREFILL, STEPS, TOKENS, reference_logits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "golden"

WHOLE = ((0, TOKENS),)
RECORDED = {
    "prefill": (WHOLE, False, 0),
    "decode": (tuple(STEPS), False, PREFILL),
    "padded": (WHOLE, True, PREFILL),
    "padded_decode": (tuple(STEPS), True, PREFILL),
}
"""Name -> which tokens each call gets, whether the batch is padded, the first token kept."""


def path_of(name: str) -> Path:
    """Return where the logits of a case are."""
    return FOLDER / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.npz"


def recorded(name: str) -> Mapping[str, NDArray[np.float32]]:
    """Return what is recorded of a case; empty if there is no code of its makers to install."""
    path = path_of(name)
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


def bf16_error(name: str) -> float | None:
    """Return the relative error of the makers' code in bfloat16; None if it is not known."""
    found = recorded(name).get("bf16_error")
    return None if found is None else float(found)


def relative_error(got: NDArray[np.float64], want: NDArray[np.float64]) -> float:
    """Return the mean over tokens of the root mean square difference of logits (B, T, V)."""
    each = np.sqrt(np.mean((got - want) ** 2, axis=-1)) / np.sqrt(np.mean(want**2))
    return float(each.mean())


def record(name: str) -> dict[str, NDArray[np.float32]]:
    """Run the makers' code on a case, and return what is kept of it."""
    import torch

    from models.originals import makers_code

    arrays: dict[str, NDArray[np.float32]] = {}
    for key, (calls, is_padded, first) in RECORDED.items():
        if is_padded and not makers_code.takes_padding(name):
            continue
        logits = makers_code.logits(name, calls, is_padded=is_padded)
        arrays[key] = logits[:, first:].astype(np.float32)
    half = makers_code.logits(name, dtype=torch.bfloat16)
    arrays["bf16_error"] = np.array(relative_error(half, reference_logits(name)), np.float32)
    return arrays


def main() -> None:
    """Record all cases."""
    from models.originals import makers_code

    FOLDER.mkdir(exist_ok=True)
    for name in CASES:
        if name in makers_code.CODE:
            np.savez(path_of(name), allow_pickle=False, **record(name))


if __name__ == "__main__":
    main()
