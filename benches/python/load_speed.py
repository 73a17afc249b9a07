"""How fast a model that fits is loaded, beside fio on the same files: one JSON object.

    python benches/python/load_speed.py DIR [--pairs 10] [--memory 12GiB]

In turns, fio reads all files and our readahead reads all weights into its arena; the page cache
holds neither. Ours is timed from opening the readahead to the last resident byte, memory and its
zeroing included, which fio does before its clock starts. So much memory is used and freed right
before: a virtual machine may have to ask its host for memory, which takes longer than any disk.
"""

import argparse
import json
import mmap
import platform
import statistics
import time
from pathlib import Path

from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import LoadOptions
from airllm_rs.benchmarks.fio import FioRun, huge_pages, measure
from airllm_rs.stats.progress import NoProgress
from airllm_rs.weights.readahead import open_readahead

BLOCK_BYTES = 8 << 20
QUEUE_DEPTH = 8


def touch(nbytes: int) -> None:
    """Use and free memory."""
    with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, nbytes, mmap.PAGESIZE):
            memory[start] = 1


def load_seconds(path: Path, memory: str) -> tuple[float, int]:
    """Load the model and return the seconds and the bytes read."""
    opened = open_model(path, LoadOptions(memory=memory), progress=NoProgress())
    if not opened.plan.fits:
        raise SystemExit(f"{path} does not fit into {memory}")
    touch(opened.plan.resident_bytes)
    begun = time.perf_counter()
    with open_readahead(opened.plan, opened.files.files) as readahead:
        for unit in opened.plan.residents:
            readahead.take(unit)
        seconds = time.perf_counter() - begun
        return seconds, readahead.stats()["bytes_read"]


def main() -> None:
    """Measure the pairs and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--memory", default="12GiB")
    given = parser.parse_args()
    files = tuple(sorted(given.path.glob("*.safetensors")))
    total = sum(file.stat().st_size for file in files)
    pairs = []
    with huge_pages(BLOCK_BYTES * QUEUE_DEPTH) as is_huge:
        memory = "mmaphuge" if is_huge else "malloc"
        run = FioRun(files, BLOCK_BYTES, QUEUE_DEPTH, total, is_cold=True, memory=memory)
        for _ in range(given.pairs):
            fio_gbps = measure(run)
            seconds, nbytes = load_seconds(given.path, given.memory)
            if fio_gbps is None:
                raise SystemExit("fio failed")
            pairs.append({"fio_gb_per_s": fio_gbps, "gb_per_s": nbytes / seconds / 1e9})
    ratios = [pair["gb_per_s"] / pair["fio_gb_per_s"] for pair in pairs]
    print(
        json.dumps(
            {
                "machine": {"kernel": platform.release(), "python": platform.python_version()},
                "config": {"path": str(given.path), "pairs": given.pairs, "fio_memory": memory},
                "ratio": statistics.median(ratios),
                "points": pairs,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
