"""`bench decode`: counters of prefill and decode, beside the limits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.benchmarks import decode
from airllm_rs.benchmarks.decode_options import DecodeOptions
from airllm_rs.memory.prediction import Rate, predict
from airllm_rs.stats import choose_progress

if TYPE_CHECKING:
    from pathlib import Path

SHOWN = choose_progress(progress=False)
OPTIONS = DecodeOptions(tokens=3, prompt_tokens=5, rounds=2)


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MEMORY_BYTES", 1 << 20)


def measured(path: Path, **given: object) -> decode.Measured:
    options = LoadOptions(dtype="float32", context=32, **given)  # type: ignore[arg-type]
    return decode.measure(open_model(path, options, progress=SHOWN), OPTIONS, SHOWN)


def test_a_streamed_model_is_measured(checkpoint: Path) -> None:
    found = measured(checkpoint, weights_memory="3MiB")
    assert [len(each.s_per_token) for each in found.rounds] == [2, 2]
    told = found.to_json()
    json.dumps(told, allow_nan=False)
    prefill, decoded, device = (told[name] for name in ("prefill", "decode", "device"))
    assert isinstance(prefill, dict)
    assert isinstance(decoded, dict)
    assert isinstance(device, dict)
    assert (prefill["tokens"], len(prefill["samples_s"])) == (5, 2)
    assert (decoded["tokens"], len(decoded["samples_s_per_token"])) == (2, 2)
    assert decoded["bytes_read"] > 0
    assert decoded["requests"] > 0
    assert device["gb_per_s"] > 0
    before, after = device["before"]["gb_per_s"], device["after"]["gb_per_s"]
    assert device["gb_per_s"] == (before + after) / 2
    used = found.used_gbps or found.memory_gbps
    assert told["predicted"] == predict(
        found.plan, Rate(device["gb_per_s"], "measured"), Rate(used, "measured")
    )
    assert found.stats["sweeps"] == 2 + 2 * 3


def test_of_a_model_that_fits_no_disk_is_measured(checkpoint: Path) -> None:
    found = measured(checkpoint)
    told = found.to_json()
    json.dumps(told, allow_nan=False)
    decoded, device = told["decode"], told["device"]
    assert isinstance(decoded, dict)
    assert isinstance(device, dict)
    assert (device["gb_per_s"], device["decode_share"], decoded["bytes_read"]) == (None, None, 0)


@pytest.mark.parametrize("given", [{"tokens": 1}, {"prompt_tokens": 0}, {"rounds": 0}])
def test_too_little_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="or more"):
        DecodeOptions(**given)
