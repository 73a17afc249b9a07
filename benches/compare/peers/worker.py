"""What every worker shares: the job it is given, the clock, and the one JSON object it prints.

A worker runs inside its peer's own environment and is started as ``python peer_NAME.py JOB.json``;
``python peer_NAME.py --imports`` only imports the peer and prints the shared objects that it maps.
Instants are of the monotonic clock, which the process that watches the worker reads too.
"""

import contextlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

STARTED = time.monotonic()


@dataclass(frozen=True)
class Job:
    """What one measurement asks of a peer."""

    model: str  # the checkpoint
    copy: str  # the peer's own copy of it (a directory or a file), where it needs one
    prompt: list[int]
    tokens: int  # new tokens; 0 only loads, which is how a peer makes its copy
    prefill: list[int]  # a second, longer prompt, timed up to its first token
    prefill_repeats: int
    resident_bytes: (
        int | None
    )  # weights that may stay in memory, for peers that can be told; None: all
    threads: int


# Generates exactly so many tokens greedily after the prompt: (token ids, instant of each).
Generate = Callable[[list[int], int], tuple[list[int], list[float]]]


def run(load: Callable[[Job], Generate], *packages: str) -> None:
    """Do the job named on the command line with the engine that ``load`` returns."""
    imported = time.monotonic()
    if sys.argv[1:] == ["--imports"]:
        versions = {name: importlib.metadata.version(name) for name in packages}
        print(json.dumps({"libraries": mapped_libraries(), "versions": versions}))
        return
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    result: dict[str, object] = {}
    # stdout is data: peers print to it what they are doing.
    with contextlib.redirect_stdout(sys.stderr):
        before_load = time.monotonic()
        generate = load(job)
        loaded = time.monotonic()
        result |= {"import_s": imported - STARTED, "load_s": loaded - before_load}
        if job.tokens:
            asked = time.monotonic()
            token_ids, instants = generate(job.prompt, job.tokens)
            result |= {
                "first_token_s": instants[0] - asked,
                "token_ids": token_ids,
                "token_instants": instants,
            }
        result["prefill_s"] = [prefill(generate, job.prefill) for _ in range(job.prefill_repeats)]
    print(json.dumps(result))


def prefill(generate: Generate, prompt: list[int]) -> float:
    """Return the seconds from the prompt to the first new token."""
    asked = time.monotonic()
    _, instants = generate(prompt, 1)
    return instants[0] - asked


def mapped_libraries() -> list[str]:
    """Return the shared objects that this process maps."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if "/" in line}
    return sorted(path for path in paths if ".so" in Path(path).name and Path(path).exists())


def write_job(job: Job, path: Path) -> None:
    """Write ``job`` where a worker will read it."""
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")
