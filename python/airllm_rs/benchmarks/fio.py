"""fio beside our own measurements: what it gets from the same files, a moment later."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)

HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
HUGE_PAGE_BYTES = 2 << 20
# some for fio itself
SPARE_PAGES = 16


@dataclass(frozen=True)
class FioRun:
    """How fio reads: as the point beside it does."""

    files: tuple[Path, ...]
    block_bytes: int
    queue_depth: int
    total_bytes: int
    is_cold: bool
    """Direct reads; else through the page cache, which is left as it is."""
    memory: str
    """``"mmaphuge"`` or ``"malloc"``."""
    engine: str = "io_uring"


def is_installed() -> bool:
    """Tell whether there is an fio to run."""
    return shutil.which("fio") is not None


def command(run: FioRun) -> list[str]:
    """Return the command that reads the files one after another, as a sweep does."""
    names = ":".join(str(path).replace(":", "\\:") for path in run.files)
    return [
        "fio",
        "--name=read",
        f"--filename={names}",
        "--file_service_type=sequential",
        "--rw=read",
        "--readonly",
        f"--direct={int(run.is_cold)}",
        f"--invalidate={int(run.is_cold)}",
        f"--mem={run.memory}",
        f"--bs={run.block_bytes}",
        f"--iodepth={run.queue_depth}",
        f"--io_size={run.total_bytes}",
        f"--ioengine={run.engine}",
        "--output-format=json",
    ]


def bandwidth(output: str) -> float:
    """Return GB/s from fio's JSON, which may follow lines of notes."""
    report = json.loads(output[output.index("{") :])
    return float(report["jobs"][0]["read"]["bw_bytes"]) / 1e9


def measure(run: FioRun) -> float | None:
    """Read with fio and return GB/s; None, with a warning, if it fails."""
    done = subprocess.run(command(run), capture_output=True, text=True, check=False)
    try:
        if done.returncode == 0:
            return bandwidth(done.stdout)
        said = (done.stderr or done.stdout).strip()[-200:]
    except (ValueError, LookupError, TypeError):
        said = "its output is not understood"
    log.warning("fio failed: %s", said)
    return None


@contextmanager
def huge_pages(nbytes: int) -> Iterator[bool]:
    """Reserve huge pages for so many bytes and give them back; say whether there are enough.

    Only root may; for others there are enough if somebody reserved them before.
    """
    wanted = -(-nbytes // HUGE_PAGE_BYTES) + SPARE_PAGES
    before = _reserved()
    is_raised = before is not None and before < wanted and _reserve(wanted)
    try:
        yield (_reserved() or 0) >= wanted
    finally:
        if is_raised and before is not None:
            _reserve(before)


def large_files(files: Sequence[Path], block_bytes: int) -> tuple[Path, ...]:
    """Return the files that hold a block at least; fio reads whole blocks only."""
    return tuple(path for path in files if path.stat().st_size >= block_bytes)


def _reserved() -> int | None:
    try:
        return int(HUGE_PAGES.read_text())
    except OSError:
        return None


def _reserve(pages: int) -> bool:
    try:
        HUGE_PAGES.write_text(str(pages))
    except OSError:
        return False
    return True
