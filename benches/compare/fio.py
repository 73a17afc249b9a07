"""fio beside each measurement: what the disk gives to direct reads into huge pages, right now."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
# 8 requests of 8 MiB in pages of 2 MiB, and some for fio itself.
HUGE_PAGES_WANTED = 48
BLOCK_BYTES = 8 << 20
OPTIONS = ["--direct=1", "--mem=mmaphuge", "--bs=8M", "--iodepth=8", "--ioengine=io_uring"]


def command(paths: Sequence[Path]) -> list[str]:
    """Return the command that reads the files one after another, as a sweep does."""
    names = ":".join(str(path).replace(":", "\\:") for path in paths)
    return [
        "fio",
        "--name=read",
        f"--filename={names}",
        "--file_service_type=sequential",
        "--rw=read",
        "--readonly",
        *OPTIONS,
        "--output-format=json",
    ]


def bandwidth(output: str) -> float:
    """Return GB/s from fio's JSON, which may follow lines of notes."""
    report = json.loads(output[output.index("{") :])
    return float(report["jobs"][0]["read"]["bw_bytes"]) / 1e9


def measure(paths: Sequence[Path]) -> float | None:
    """Read the files with fio and return GB/s; None where all are smaller than a block."""
    large = [path for path in paths if path.stat().st_size >= BLOCK_BYTES]
    if not large:
        return None
    done = subprocess.run(command(large), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"fio failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return bandwidth(done.stdout)


@contextmanager
def huge_pages() -> Iterator[bool]:
    """Reserve the huge pages that fio needs and give them back; say whether fio can run."""
    before = int(HUGE_PAGES.read_text())
    is_raised = before < HUGE_PAGES_WANTED and _reserve(HUGE_PAGES_WANTED)
    try:
        there = int(HUGE_PAGES.read_text())
        yield there >= HUGE_PAGES_WANTED and shutil.which("fio") is not None
    finally:
        if is_raised:
            _reserve(before)


def _reserve(pages: int) -> bool:
    """Set the number of huge pages; only root may."""
    try:
        HUGE_PAGES.write_text(str(pages))
    except PermissionError:
        return False
    return True
