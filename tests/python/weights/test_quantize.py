"""What is encoded is as near to what it was as its scheme allows, and bitsandbytes' where it is."""

import json

import numpy as np
import pytest
import torch

from airllm_rs import _core
from airllm_rs.benchmarks.kernel_formats import layout_of
from airllm_rs.store.schemes import SCHEMES

ROWS, COLS = 64, 1024
LARGEST = {"8bit": 0.000040, "4bit": 0.0060, "4bit-hq": 0.0048, "nf4": 0.0086}
"""Squared error of normally distributed numbers over their square."""


def encoded(
    values: np.ndarray, scheme: str, effort: str = "search", dtype: str = "F32"
) -> tuple[dict[str, np.ndarray], bool]:
    rows, cols = values.shape
    block = {"8bit": 64, "4bit": 32, "4bit-hq": 16, "nf4": 64}[scheme]
    is_nf4 = scheme == "nf4"
    parts = {
        "q": np.zeros((rows, cols if scheme == "8bit" else cols // 2), np.uint8),
        "scale": np.zeros((rows, cols // block), np.float32 if is_nf4 else np.uint8),
    }
    if not is_nf4:
        parts["row"] = np.zeros(rows, np.float32)
    is_finite = _core.quantize(
        values,
        dtype,
        rows,
        cols,
        scheme,
        parts["q"],
        parts["scale"],
        parts.get("row"),
        effort=effort,
    )
    return parts, is_finite


def decoded(parts: dict[str, np.ndarray], scheme: str, cols: int = COLS) -> np.ndarray:
    rows = parts["q"].shape[0]
    held = {role: (part.view(np.uint8), 0) for role, part in parts.items()}
    layout = _core.Layout(json.dumps(layout_of(scheme)))
    weight = _core.Weight(layout, rows, cols, **held)
    out = np.zeros((rows, cols), np.float32)
    _core.dequantize_into(weight, out, "F32")
    return out


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((ROWS, COLS), np.float32)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_errors_are_within_bounds(scheme: str, values: np.ndarray) -> None:
    parts, is_finite = encoded(values, scheme)
    assert is_finite
    error = np.square(decoded(parts, scheme) - values).sum() / np.square(values).sum()
    assert error <= LARGEST[scheme]
    fast, _ = encoded(values, scheme, "fast")
    of_fast = np.square(decoded(fast, scheme) - values).sum() / np.square(values).sum()
    assert error <= of_fast <= 1.5 * error


@pytest.mark.parametrize("scheme", SCHEMES)
def test_halves_are_encoded_as_the_floats_they_are(scheme: str, values: np.ndarray) -> None:
    halves = torch.from_numpy(values).bfloat16()
    found, _ = encoded(halves.view(torch.int16).numpy(), scheme, dtype="BF16")
    expected, _ = encoded(halves.float().numpy(), scheme)
    for role, part in expected.items():
        assert np.array_equal(found[role], part), role


def test_what_is_no_number_is_told(values: np.ndarray) -> None:
    values[3, 5] = np.inf
    assert not encoded(values, "4bit")[1]


def test_what_does_not_fit_is_refused(values: np.ndarray) -> None:
    q, scale, row = (np.zeros(ROWS * n, np.uint8) for n in (COLS, COLS // 64, 4))

    def call(*, cols: int = COLS, scheme: str = "8bit", **more: object) -> None:
        given = {"q": q, "scale": scale, "row": row, **more}
        _core.quantize(values, "F32", ROWS, cols, scheme, **given)  # type: ignore[arg-type]

    call()
    for wrong in (
        {"cols": COLS - 1},
        {"cols": COLS - 64},
        {"scheme": "5bit"},
        {"scheme": "nf4"},
        {"q": q[1:]},
        {"row": None},
        {"effort": "best"},
        {"scale": q[: scale.size]},
        {"row": scale[-row.size :]},
    ):
        with pytest.raises(ValueError, match=r".+"):
            call(**wrong)


def test_nf4_is_what_bitsandbytes_makes(values: np.ndarray) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    q, state = functional.quantize_4bit(torch.from_numpy(values), blocksize=64, quant_type="nf4")
    parts, _ = encoded(values, "nf4", "fast")
    assert np.array_equal(parts["scale"].reshape(-1), state.absmax.numpy())
    theirs = q.numpy().reshape(parts["q"].shape)
    # a tie may go either way
    assert (parts["q"] != theirs).mean() < 1e-3
