"""A model larger than a real memory cgroup runs in it, and the kernel never has to say no."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import page_cache
import pytest
from cgroup import can_limit
from peers.worker import mapped_libraries
from watch import watch

from airllm_rs.benchmarks.make_model import ModelShape, make_model
from airllm_rs.stats.progress import NoProgress

LIMIT = 1536 << 20
# 1.7 GB of weights in bf16
SHAPE = ModelShape(
    num_hidden_layers=28,
    hidden_size=1536,
    intermediate_size=5120,
    num_attention_heads=12,
    num_key_value_heads=4,
    vocab_size=8192,
)
NEW_TOKENS = 6


def header_pages(path: Path) -> int:
    """Return the bytes of the pages that the header of a safetensors file lies in."""
    with path.open("rb") as file:
        nbytes = 8 + int.from_bytes(file.read(8), "little")
    return nbytes + -nbytes % 4096


@pytest.mark.slow
@pytest.mark.skipif(not can_limit(), reason="needs root and a memory cgroup")
def test_the_limit_is_never_reached(tmp_path: Path) -> None:
    import torch  # noqa: F401 - maps the libraries that are read in below
    import transformers  # noqa: F401

    model = tmp_path / "model"
    made = make_model(model, SHAPE, progress=NoProgress())
    assert made.total_bytes > LIMIT
    files = sorted(model.glob("*.safetensors"))
    page_cache.drop(files)
    page_cache.read_in(Path(path) for path in mapped_libraries())
    command = [
        *(sys.executable, "-m", "airllm_rs", "run", str(model), "A test", "--raw"),
        *("--context", "256", "--temperature", "0"),
        *("--max-new-tokens", str(NEW_TOKENS), "--json"),
    ]
    watched = watch(command, tmp_path, LIMIT, threads=2)
    assert watched.failure is None, watched.stderr
    said = json.loads(watched.stdout)
    assert said["new_tokens"] == NEW_TOKENS
    assert said["sweeps"] == NEW_TOKENS
    streamed = said["weights"]["streamed_bytes_per_sweep"]
    assert streamed > 0
    # every sweep reads what is streamed, widened by less than a hundredth, and nothing else
    least = said["weights"]["resident_bytes"] + (NEW_TOKENS - 1) * streamed
    most = said["weights"]["resident_bytes"] + (NEW_TOKENS + 1) * streamed
    assert 0.99 * least <= said["io"]["bytes_read"] <= 1.01 * most
    assert said["memory"]["peak_bytes"] <= watched.peak_anon_bytes + (1 << 20)
    assert watched.peak_rss_bytes <= LIMIT
    assert watched.counters is not None
    assert watched.counters.failcnt == 0
    # headers are read through the page cache, weights past it
    assert page_cache.cached_bytes(files) <= sum(header_pages(path) for path in files)
    assert watched.printed is not None
    last = watched.printed
    first = last - said["timings"]["decode_s"]
    assert watched.major_faults_between(first, last) == 0
