"""Which dtype the arithmetic of a checkpoint is done in, by safetensors' codes."""

from __future__ import annotations

from pathlib import Path

ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
"""Dtypes of weights that can be computed with, converted or as they are."""


def compute_dtype(stored: str, requested: str | None = None, *, bf16_arithmetic: bool) -> str:
    """Return the dtype to compute in, ``"BF16"`` or ``"F32"``.

    bf16 is computed in bf16 where the CPU has instructions for it, or on request. fp16 products on
    a CPU are several times slower than fp32, so fp16 is only ever a format of weights.
    """
    if requested is not None:
        return "BF16" if requested == "BF16" else "F32"
    return "BF16" if stored == "BF16" and bf16_arithmetic else "F32"


def has_bf16_arithmetic() -> bool:
    """Tell whether this CPU multiplies bf16 natively (AVX512-BF16 or AMX)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags
