"""Every native family against somebody else's code, for each checkpoint in `architectures`.

``pytest tests/python/models/test_families.py -k baichuan`` runs the rows of one family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs.families import FAMILIES
from loading import load
from models.architectures import ROWS, SCENARIOS, Row, error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airllm_rs.generation.causal_lm import CausalLM

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = ("resident", "streamed", "ring below a layer")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write the checkpoint of a row once: ``(row, dtype)``."""
    paths: dict[tuple[str, torch.dtype], Path] = {}

    def write(row: Row, dtype: torch.dtype = torch.float32) -> Path:
        key = (row.name, dtype)
        if key not in paths:
            paths[key] = row.write(tmp_path_factory.mktemp(row.family), dtype)
        return paths[key]

    return write


def native(row: Row) -> bool:
    """Tell whether the package has the family of a row."""
    return row.family in FAMILIES


def parameters() -> list[object]:
    """Return the rows; those of families that do not exist yet are skipped."""
    return [
        pytest.param(
            row,
            id=row.name,
            marks=[] if native(row) else pytest.mark.skip(reason=f"{row.family} is not yet native"),
        )
        for row in ROWS.values()
    ]


def run(model: CausalLM, row: Row, scenario: str) -> torch.Tensor:
    """Return our logits (2, T, V)."""
    calls, is_padded = SCENARIOS[scenario]
    cache, parts = None, []
    with torch.no_grad():
        for start, stop in calls:
            mask = row.mask[:, :stop] if is_padded else None
            out = model(
                row.ids[:, start:stop],
                attention_mask=mask,
                past_key_values=cache,
                use_cache=len(calls) > 1,
            )
            cache = out.cache
            parts.append(out.logits)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", parameters())
def test_logits_are_the_judges(row: Row, mode: str, written: Callable[..., Path]) -> None:
    path = written(row)
    wrong = []
    with load(path, mode, overrides=row.overrides) as model:
        for scenario in row.scenarios:
            want = row.oracle(path, scenario)
            kept = row.mask.bool() if "padding" in scenario else torch.ones_like(row.ids).bool()
            got = run(model, row, scenario).double()
            assert got.shape == want.shape
            difference = float((got - want)[kept].abs().max() / want.abs().max())
            if not difference <= TOLERANCE:
                wrong.append(f"{scenario}: {difference:.1e} of the largest logit")
    assert not wrong, "; ".join(wrong)


@pytest.mark.parametrize("row", parameters())
def test_bf16_loses_no_more_than_twice_what_the_judge_loses(
    row: Row, written: Callable[..., Path]
) -> None:
    path = written(row, torch.bfloat16)
    want = row.oracle(path, "prefill")
    theirs = row.own_bf16_error(path, want)
    if theirs is None:
        pytest.skip("there is no code of its makers that could say what bfloat16 loses")
    with load(path, "streamed", requested=None, overrides=row.overrides) as model:
        assert model.dtype == torch.bfloat16
        ours = error(run(model, row, "prefill"), want, routes=row.routes)
    assert ours < 2 * theirs, f"relative error {ours:.4f}, theirs {theirs:.4f}"
