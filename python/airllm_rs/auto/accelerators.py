"""What could compute here besides the CPU, and what ``device="auto"`` makes of it."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_LABELS = {"cuda": "CUDA", "rocm": "ROCm", "mlx": "MLX", "mps": "Metal", "xpu": "Intel's GPU"}
_CUDA_DRIVER = "libcuda.so.1"


class Accelerator(NamedTuple):
    """A device that an executor could run on."""

    kind: str
    """``mlx``, ``cuda`` or ``rocm``."""
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({_LABELS[self.kind]})"


class Choice(NamedTuple):
    """Where a model is computed, and why."""

    device: str
    why: str

    def __str__(self) -> str:
        return f"device: {self.device} ({self.why})"


def driver_devices() -> int:
    """Return how many devices NVIDIA's driver library counts, 0 where there is none to ask."""
    try:
        driver = ctypes.CDLL(_CUDA_DRIVER)
        count = ctypes.c_int(0)
        is_up = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if is_up else 0


def find_accelerators(
    root: Path = Path("/"),
    *,
    system: str | None = None,
    machine: str | None = None,
    count_driver: Callable[[], int] = driver_devices,
) -> list[Accelerator]:
    """Return what the machine has, by its drivers' files and library; torch is not imported.

    Args:
        root: Where /proc, /sys and /dev are found.
        system: As `platform.system` says; this machine's if None.
        machine: As `platform.machine` says; this machine's if None.
        count_driver: Asks NVIDIA's driver, where it left no files: as in containers and WSL.
    """
    system, machine = system or platform.system(), machine or platform.machine()
    if system == "Darwin":
        return [Accelerator("mlx", "Apple silicon")] if machine == "arm64" else []
    found = [Accelerator("cuda", name) for name in _nvidia_names(root)]
    if not found:
        number = len([path for path in root.glob("dev/nvidia*") if path.name[6:].isdigit()])
        found = [Accelerator("cuda", "NVIDIA GPU")] * (number or count_driver())
    amd = _amd_nodes(root)
    return [*found, *([Accelerator("rocm", "AMD GPU")] * amd)]


def seen_by_torch() -> Accelerator | None:
    """Return the first device that torch can compute on, None if there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    kind = "cuda" if torch.version.hip is None else "rocm"
    return Accelerator(kind, torch.cuda.get_device_name(0))


def choose_device(
    asked: str,
    found: list[Accelerator],
    seen: Callable[[], Accelerator | None] | None = None,
) -> Choice:
    """Return where to compute: on the CPU, and why not elsewhere.

    Args:
        asked: ``"auto"`` or ``"cpu"``; `require_device` refuses all else.
        found: What the machine has.
        seen: Asks torch; None where torch is not to be imported.
    """
    if asked != "auto":
        return Choice("cpu", "as asked for")
    apple = next((entry for entry in found if entry.kind == "mlx"), None)
    if apple is not None:
        return Choice("cpu", f"{apple} is here, but only the CPU executor exists")
    if not found:
        return Choice("cpu", "no GPU and no Apple silicon was found")
    if seen is None:
        return Choice("cpu", f"{found[0]} is here, but only the CPU executor exists")
    usable = seen()
    if usable is None:
        return Choice("cpu", f"{found[0]} is here, but torch sees no device")
    return Choice("cpu", f"torch sees {usable}, but only the CPU executor exists")


def require_device(device: object) -> None:
    """Refuse a device that nothing here computes on.

    Raises:
        ValueError: naming it.
    """
    asked = str(device)
    if asked in ("auto", "cpu"):
        return
    label = _LABELS.get(asked.partition(":")[0])
    why = f"there is no {label} executor yet, " if label else ""
    raise ValueError(
        f"device={asked!r} is not available: {why}only the CPU executor exists; use 'cpu'"
    )


def _nvidia_names(root: Path) -> list[str]:
    names = []
    for card in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        for line in _text(card).splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                names.append(value.strip())
    return names


def _amd_nodes(root: Path) -> int:
    """Return how many GPUs the kernel's compute driver has; CPUs are nodes of it too."""
    if not (root / "dev/kfd").exists():
        return 0
    nodes = root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")
    gpus = [node for node in nodes if "\nsimd_count 0\n" not in f"\n{_text(node)}\n"]
    return len(gpus) or 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
