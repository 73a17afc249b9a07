"""What is known about a device is the best of a few runs, and nothing that makes no sense."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from airllm_rs.weights.devices import DeviceSettings, identity, recall, remember

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path))
    return tmp_path / "devices.json"


def rate(path: Path) -> float | None:
    found = recall(path)
    return found.gbps if found else None


def test_a_disturbed_run_does_not_hide_the_device(tmp_path: Path) -> None:
    for gbps in (2.0, 3.5, 1.0):
        remember(tmp_path, DeviceSettings(4 << 20, 16, gbps))
    assert recall(tmp_path) == DeviceSettings(4 << 20, 16, 3.5)


def test_a_slower_device_is_noticed_after_five_runs(tmp_path: Path) -> None:
    remember(tmp_path, DeviceSettings(4 << 20, 16, 3.5))
    seen = []
    for _ in range(5):
        remember(tmp_path, DeviceSettings(4 << 20, 16, 1.0))
        seen.append(rate(tmp_path))
    assert seen == [3.5, 3.5, 3.5, 3.5, 1.0]


@pytest.mark.parametrize(
    "gbps", [None, [], "fast", 0.0, -1.0, ["3.5"], float("nan"), float("inf"), {}]
)
def test_what_is_no_rate_is_nothing(tmp_path: Path, known: Path, gbps: object) -> None:
    entry = {"request_bytes": 4 << 20, "queue_depth": 16, "gbps": gbps}
    known.write_text(json.dumps({identity(tmp_path): entry}))
    assert recall(tmp_path) is None
    remember(tmp_path, DeviceSettings(4 << 20, 16, 1.5))
    assert rate(tmp_path) == 1.5


def test_a_file_that_is_broken_is_nothing(tmp_path: Path, known: Path) -> None:
    for text in ("", "{", "[]", "[" * 100_000, '{"a": 1}'):
        known.write_text(text)
        assert recall(tmp_path) is None


@pytest.mark.parametrize("count", [float("inf"), float("nan"), -1, "many", None, [], 1 << 70])
def test_what_is_no_setting_is_nothing(tmp_path: Path, known: Path, count: object) -> None:
    sane = {"request_bytes": 4 << 20, "queue_depth": 16, "gbps": [1.0]}
    for name in ("request_bytes", "queue_depth"):
        known.write_text(json.dumps({identity(tmp_path): {**sane, name: count}}))
        assert recall(tmp_path) is None
