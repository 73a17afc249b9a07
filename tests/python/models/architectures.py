"""The table of architectures: for each native family, checkpoints and who judges them.

A new family is one row here or several, beside its files in ``families/`` and ``models/``. What
transformers knows gets a kind in `in_tree`, judged by transformers; what it does not know gets a
case in `originals`, judged by the numpy reference there, which the makers' own code judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

from models import in_tree
from models.originals import cases
from models.originals.golden import bf16_error
from tiny import prompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

TOKENS = cases.TOKENS
PADDING = cases.PADDING

Calls = tuple[tuple[int, int], ...]

WHOLE: Calls = ((0, TOKENS),)
CHUNKS: Calls = tuple(cases.CHUNKS)
STEPS: Calls = tuple(cases.STEPS)
"""A prompt, then token by token: past the windows, and past the lengths where a base changes."""

SCENARIOS: dict[str, tuple[Calls, bool]] = {
    "prefill": (WHOLE, False),
    "prefill, left padding": (WHOLE, True),
    "chunked prefill": (CHUNKS, False),
    "decode": (STEPS, False),
    "decode, left padding": (STEPS, True),
}
"""Name -> which tokens each call gets, and whether the first sequence is padded."""


@dataclass(frozen=True)
class Row:
    """One checkpoint of a family."""

    name: str
    family: str
    """The ``model_type`` in its config.json."""
    judge: Literal["transformers", "reference"]
    overrides: Mapping[str, object] = field(default_factory=dict, hash=False)
    """``config_overrides`` that a tiny model needs, for families recognised by their size."""
    depends_on_length: bool = False
    """The rotation changes with the length: the judge must be given the same calls."""
    left_out: frozenset[str] = frozenset()
    """Scenarios that the makers' code does not have."""
    routes: bool = False
    """Experts are chosen: a rounding error can choose another one."""

    @property
    def scenarios(self) -> list[str]:
        """The scenarios to compare."""
        return [name for name in SCENARIOS if name not in self.left_out]

    def write(self, path: Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write the checkpoint into the directory ``path``, and return it."""
        if self.judge == "transformers":
            return in_tree.write(self.name, path, dtype)
        return cases.write(self.name, path, dtype)

    @property
    def ids(self) -> Tensor:
        """The tokens of all comparisons, (2, `TOKENS`)."""
        if self.judge == "transformers":
            return prompt(TOKENS, sequences=2)
        return torch.from_numpy(cases.tokens())

    @property
    def mask(self) -> Tensor:
        """Zero where the batch is padded, (2, `TOKENS`)."""
        return torch.from_numpy(cases.padded())

    def oracle(self, path: Path, scenario: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the judge's logits (2, `TOKENS`, V) in float64.

        Args:
            path: Where `write` put the checkpoint.
            scenario: One of `SCENARIOS`.
            dtype: In which transformers computes; the reference always computes in float64.
        """
        calls, is_padded = SCENARIOS[scenario]
        return _judged(self, path, calls if self.depends_on_length else WHOLE, is_padded, dtype)

    def own_bf16_error(self, path: Path, want: Tensor) -> float | None:
        """Return the `error` of the judge in bfloat16, or of the makers' code; None if unknown.

        ``want`` are the logits of the prefill in full precision.
        """
        if self.judge == "reference":
            return bf16_error(self.name)
        return error(self.oracle(path, "prefill", torch.bfloat16), want, routes=self.routes)


@cache
def _judged(row: Row, path: Path, calls: Calls, is_padded: bool, dtype: torch.dtype) -> Tensor:
    if row.judge == "reference":
        logits = cases.reference_logits(row.name, calls, is_padded=is_padded)
        return torch.from_numpy(logits)
    model = in_tree.model_of(path, dtype)
    return in_tree.logits(model, row.ids, calls, row.mask if is_padded else None)


def error(got: Tensor, want: Tensor, *, routes: bool = False) -> float:
    """Return the relative error of a typical token: root mean squares of logits (B, T, V).

    The mean over tokens, or their median where experts are chosen.
    """
    each = (got.double() - want).pow(2).mean(dim=-1).sqrt() / want.pow(2).mean().sqrt()
    return float(each.median() if routes else each.mean())


def _in_tree_row(name: str) -> Row:
    model_type, _ = in_tree.KINDS[name]
    return Row(
        name,
        model_type,
        "transformers",
        depends_on_length=name in in_tree.DEPEND_ON_LENGTH,
        routes=model_type in in_tree.MIXTURES,
    )


def _original_row(name: str) -> Row:
    case = cases.CASES[name]
    left_out: Sequence[str] = ("chunked prefill",) if name == "internlm, dynamic" else ()
    return Row(
        name,
        str(case.config["model_type"]),
        "reference",
        overrides=case.overrides,
        depends_on_length=True,
        left_out=frozenset(left_out),
    )


ROWS: dict[str, Row] = {
    **{name: _in_tree_row(name) for name in in_tree.KINDS},
    **{name: _original_row(name) for name in cases.CASES},
}
