"""The machine that the numbers belong to."""

import os
import platform
import re
import subprocess
from pathlib import Path

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def describe(model: Path) -> dict[str, object]:
    """Return what a reader of the numbers needs to know about this machine and the model's disk."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"^model name\s*:\s*(.+)$", cpu, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", cpu, re.MULTILINE)
    wide = [flag for flag in (flags[1].split() if flags else []) if flag.startswith(("avx", "amx"))]
    return {
        "kernel": platform.release(),
        "cpu": name[1] if name else platform.machine(),
        "simd": wide,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "huge_pages": THP.read_text(encoding="utf-8").strip() if THP.exists() else None,
        "file_system": mount_of(model),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
    }


def mount_of(path: Path) -> str | None:
    """Return device, type and options of the file system that ``path`` is on."""
    done = subprocess.run(
        ["findmnt", "-no", "SOURCE,FSTYPE,OPTIONS", "-T", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
