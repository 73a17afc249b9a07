"""What could compute is found by its files, and ``auto`` says what it makes of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from airllm_rs.auto import loading
from airllm_rs.auto.accelerators import (
    Accelerator,
    choose_device,
    find_accelerators,
    require_device,
)
from airllm_rs.auto.auto_model import AutoModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NVIDIA = Accelerator("cuda", "NVIDIA H100")


def found(root: Path, *, system: str = "Linux", machine: str = "x86_64", driver: int = 0) -> object:
    entries = find_accelerators(root, system=system, machine=machine, count_driver=lambda: driver)
    return [tuple(entry) for entry in entries]


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert found(tmp_path) == []


def test_nvidia_is_found_by_its_driver_s_files_devices_or_library(tmp_path: Path) -> None:
    assert found(tmp_path, driver=2) == [("cuda", "NVIDIA GPU")] * 2
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert found(tmp_path) == [("cuda", "NVIDIA GPU")]
    card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t NVIDIA H100\nIRQ: 1\n")
    assert found(tmp_path) == [("cuda", "NVIDIA H100")]


def test_amd_is_found_by_the_nodes_that_are_no_cpus(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    nodes = tmp_path / "sys/class/kfd/kfd/topology/nodes"
    for number, simds in enumerate((0, 304, 304)):
        (nodes / str(number)).mkdir(parents=True)
        (nodes / str(number) / "properties").write_text(f"cpu_cores_count 0\nsimd_count {simds}\n")
    assert found(tmp_path) == [("rocm", "AMD GPU")] * 2


def test_apple_silicon_is_told_from_intel(tmp_path: Path) -> None:
    assert found(tmp_path, system="Darwin", machine="arm64") == [("mlx", "Apple silicon")]
    assert found(tmp_path, system="Darwin", machine="x86_64") == []


@pytest.mark.parametrize(
    ("asked", "entries", "seen", "why"),
    [
        ("cpu", [NVIDIA], NVIDIA, "as asked for"),
        ("auto", [], None, "no GPU and no Apple silicon was found"),
        ("auto", [NVIDIA], None, "NVIDIA H100 (CUDA) is here, but torch sees no device"),
        ("auto", [NVIDIA], NVIDIA, "torch sees NVIDIA H100 (CUDA), but only the CPU executor"),
        (
            "auto",
            [Accelerator("rocm", "AMD GPU")],
            Accelerator("rocm", "MI300X"),
            "torch sees MI300X (ROCm), but only the CPU executor exists",
        ),
        ("auto", [Accelerator("mlx", "Apple silicon")], None, "Apple silicon (MLX) is here, but"),
    ],
)
def test_auto_says_what_it_chose_and_why(
    asked: str, entries: list[Accelerator], seen: Accelerator | None, why: str
) -> None:
    choice = choose_device(asked, entries, lambda: seen)
    assert choice.device == "cpu"
    assert choice.why.startswith(why)
    assert "\n" not in str(choice)


@pytest.mark.parametrize(
    ("device", "executor"), [("cuda:0", "CUDA"), ("rocm", "ROCm"), ("mlx", "MLX"), ("mps", "Metal")]
)
def test_an_explicit_device_is_refused_by_name(device: str, executor: str) -> None:
    with pytest.raises(ValueError, match=f"device='{device}' is .* no {executor} executor yet"):
        require_device(device)
    with pytest.raises(ValueError, match="device='tpu' is not available: only the CPU executor"):
        require_device("tpu")


def test_loading_tells_it_in_one_line(
    tiny_checkpoint: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "find_accelerators", lambda: [NVIDIA])
    monkeypatch.setattr(loading, "seen_by_torch", lambda: NVIDIA)
    with caplog.at_level(logging.INFO, "airllm_rs"):
        AutoModel.from_pretrained(tiny_checkpoint("llama"), context=16, progress=False).close()
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("device: ")]
    assert told == ["device: cpu (torch sees NVIDIA H100 (CUDA), but only the CPU executor exists)"]
