"""Measure airllm_rs and its peers side by side on one model: one table, one JSON file.

    python benches/compare/run.py               # what `make bench-compare` calls: most of an hour
    python benches/compare/run.py DIR --limit 3GiB --rounds 5 --peers airllm_rs,llamacpp,accelerate
    python benches/compare/run.py DIR --limit none --prefill      # with memory for all of it

Without DIR a synthetic 6.24 GB model is made first (28 layers, hidden 3072). Programs run one after
another, in turns, each from a cold page cache: the files it reads are dropped before it starts and
counted after it ended. fio reads the same files before and after each run. Times are medians,
memory and counters the worst of all rounds.

* s/token is decode only: (last token - first token) / (tokens - 1).
* 1st token is counted from the start of the process; load is the program's own, imports excluded.
* prefill: seconds from a prompt of 512 tokens to its first token, the faster of two in a process
  that has decoded before.
* failcnt, charged: of the memory cgroup (limit hit, most memory incl. page cache).
* anon, file, rss: highest RssAnon, RssFile + RssShmem, and their sum at one instant.
* majflt: major faults between first and last token; read: what the process made the disk read;
  cached: what is left of the files in the page cache.

A limit is a real memory cgroup (root is needed). Shared objects are charged to whoever touches them
first, so each program's are read in beforehand, outside the group. Every peer has its own
environment, made by uv with pinned versions, and its own copy of the model where it needs one
(AirLLM splits the checkpoint, two peers read GGUF): 19 GB beside a 6.24 GB model, removed at the
end unless --keep. Programs that can be told how much to keep in memory keep half the limit, or what
--resident says, or everything without a limit; accelerate keeps nothing then, since everything in
memory is `transformers`. The CPU wheel of xllamacpp is built without AVX-512.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import fio
import machine
import page_cache
from cgroup import can_limit
from peers.worker import Job, write_job
from programs import OURS, PROGRAMS, Peers, Program
from report import Point, disk_ratio, median, rows_of, seconds_per_token, table
from tokenizers import Tokenizer
from watch import Watched, watch

PROMPT = "The capital of France is"
PREFILL_TOKENS = 512
BUSY_CORES = 0.2  # more than this elsewhere makes a time worth less
DEFAULT_WORK = Path(__file__).parents[2] / ".cache" / "compare"
RESULTS = Path(__file__).with_name("results")
DEFAULT_MODEL = (
    "--layers 28 --hidden 3072 --intermediate 8192 --heads 24 --kv-heads 8 --vocab 49152"
)
SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(text: str) -> int:
    """Read ``3GiB``, ``1.5GB`` or a plain number of bytes."""
    digits = text.rstrip("kKmMgGiIbB ")
    unit = text[len(digits) :].strip().lower().removesuffix("b")
    try:
        return int(float(digits) * SIZES[unit])
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: 3GiB, 1200MB") from None


def parse_limits(text: str) -> list[int | None]:
    """Read ``none``, ``3GiB`` or a list of them."""
    return [None if word == "none" else parse_size(word) for word in text.split(",")]


def parse_programs(text: str) -> list[Program]:
    """Read a list of names."""
    if unknown := [name for name in text.split(",") if name not in PROGRAMS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; {', '.join(PROGRAMS)}")
    return [PROGRAMS[name] for name in text.split(",")]


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, help="a bf16 safetensors checkpoint")
    parser.add_argument("--peers", type=parse_programs, default=list(PROGRAMS.values()))
    parser.add_argument("--limit", type=parse_limits, help="none, 3GiB, or a list; default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=8, help="new tokens per run, 2 at least")
    parser.add_argument("--prefill", action="store_true", help="also time a prompt of 512 tokens")
    parser.add_argument("--resident", type=parse_size, help="weights that peers keep in memory")
    parser.add_argument(
        "--work", type=Path, default=DEFAULT_WORK, help="environments and copies; .cache/compare"
    )
    parser.add_argument("--out", type=Path, help="the JSON file; default: results/TIME.json")
    parser.add_argument("--keep", action="store_true", help="keep the peers' copies of the model")
    options = parser.parse_args(arguments)
    if options.tokens < 2 or options.rounds < 1:
        parser.error("--tokens must be 2 or more, --rounds 1 or more")
    return options


class Bench:
    """One comparison: its programs, its prompts, and the points that it has so far."""

    def __init__(self, options: argparse.Namespace, model: Path) -> None:
        self.options = options
        self.work: Path = options.work.resolve()
        self.peers = Peers(self.work, model)
        self.threads = os.cpu_count() or 1
        self.points: list[Point] = []
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self.prompt: list[int] = tokenizer.encode(PROMPT).ids
        many = f"{PROMPT} Paris. " * PREFILL_TOKENS
        self.long_prompt: list[int] = tokenizer.encode(many).ids[:PREFILL_TOKENS]

    def prepare(self, programs: Sequence[Program]) -> None:
        """Make what the programs need, outside every limit."""
        self.peers.check_space(programs)
        for program in programs:
            self.peers.install(program)
            imports = subprocess.run(
                self.peers.worker(program, "--imports"), capture_output=True, text=True, check=False
            )
            if imports.returncode:
                raise SystemExit(f"{program.name}: cannot be imported\n{imports.stderr}")
            said = json.loads(imports.stdout.splitlines()[-1])
            self.peers.libraries[program.name] = [Path(path) for path in said["libraries"]]
            self.peers.versions[program.name] = said["versions"]
            self.peers.prepare(program, self.job(program, None, tokens=0, prefill_repeats=0))

    def job(
        self, program: Program, limit: int | None, *, tokens: int, prefill_repeats: int
    ) -> Path:
        """Write what the program's worker is to do."""
        half = limit // 2 if limit else None
        job = Job(
            model=str(self.peers.model),
            copy=str(self.peers.copy(program) or ""),
            prompt=self.prompt,
            tokens=tokens,
            prefill=self.long_prompt,
            prefill_repeats=prefill_repeats,
            resident_bytes=half if self.options.resident is None else self.options.resident,
            threads=self.threads,
        )
        path = self.work / f"{program.name}.job.json"
        write_job(job, path)
        return path

    def command_line(self, tokens: int) -> list[str]:
        """Return the command of ours that is measured."""
        return [
            *(sys.executable, "-m", "airllm_rs", "run", str(self.peers.model), PROMPT),
            *("--memory", "auto", "--context", "512", "--raw", "--temperature", "0"),
            *("--max-new-tokens", str(tokens), "--json"),
        ]

    def measure(self, program: Program, limit: int | None, number: int) -> Point:
        """Run the program once from a cold page cache."""
        tokens = min(self.options.tokens, program.most_tokens or self.options.tokens)
        repeats = 2 if self.options.prefill else 0
        if not program.is_ours:
            job = self.job(program, limit, tokens=tokens, prefill_repeats=repeats)
            watched = self.cold_run(program, self.peers.worker(program, str(job)), limit)
            return self.point(program, limit, number, watched)
        watched = self.cold_run(program, self.command_line(tokens), limit)
        point = self.point(program, limit, number, watched)
        if repeats and point["failure"] is None:
            job = self.job(program, limit, tokens=1, prefill_repeats=repeats)
            again = self.cold_run(program, self.peers.worker(program, str(job)), limit)
            point["failure"] = again.failure
            if again.failure is None:
                point["prefill_s"] = json.loads(again.stdout.splitlines()[-1])["prefill_s"]
        return point

    def cold_run(self, program: Program, command: Sequence[str], limit: int | None) -> Watched:
        """Drop the model from the page cache, read the libraries into it, and run."""
        page_cache.drop(self.peers.files(program))
        self.peers.read_in_libraries(program)
        return watch(command, self.work, limit, self.threads)

    def point(self, program: Program, limit: int | None, number: int, watched: Watched) -> Point:
        """Put together what the program and the kernel say about a run."""
        counters = watched.counters
        point = Point(
            limit_bytes=limit,
            program=program.name,
            round=number,
            failure=watched.failure,
            import_s=None,
            load_s=None,
            first_token_s=None,
            start_to_first_token_s=None,
            s_per_token=None,
            token_ids=[],
            prefill_s=[],
            failcnt=counters.failcnt if counters else None,
            max_usage_bytes=counters.max_usage_bytes if counters else None,
            peak_anon_bytes=watched.peak_anon_bytes,
            peak_file_bytes=watched.peak_file_bytes,
            peak_rss_bytes=watched.peak_rss_bytes,
            major_faults_in_decode=None,
            read_bytes=watched.read_bytes,
            others_cores=watched.others_cores,
            cached_bytes_after=page_cache.cached_bytes(self.peers.files(program)),
            streamed_bytes_per_sweep=None,
            fio_gb_per_s=[],
            own_report=None,
        )
        if watched.failure is None:
            said = json.loads(watched.stdout.splitlines()[-1])
            (read_own if program.is_ours else read_worker)(point, said, watched)
        return point

    def document(self) -> dict[str, object]:
        """Return everything that is known so far."""
        limits = list(dict.fromkeys(point["limit_bytes"] for point in self.points))
        return {
            "machine": machine.describe(self.peers.model),
            "config": {
                "command": sys.argv,
                "model": str(self.peers.model),
                "model_bytes": sum(path.stat().st_size for path in self.peers.weights),
                "airllm_rs_command": self.command_line(self.options.tokens),
                "fio_command": fio.command(self.peers.weights),
                "threads": self.threads,
                "prompt_tokens": len(self.prompt),
                "prefill_tokens": len(self.long_prompt),
                "versions": self.peers.versions,
                "prepare_s": self.peers.prepare_s,
            },
            "summary": [
                {"limit_bytes": limit, "rows": rows_of(under(self.points, limit), OURS)}
                for limit in limits
            ],
            "points": self.points,
        }


def read_own(point: Point, said: dict[str, object], watched: Watched) -> None:
    """Take over the report of `airllm-rs run --json`, written when its last token was there."""
    point["own_report"] = said
    timings, weights, token_ids = said["timings"], said["weights"], said["token_ids"]
    assert isinstance(timings, dict)
    assert isinstance(weights, dict)
    assert isinstance(token_ids, list)
    point["load_s"] = timings["load_s"]
    point["first_token_s"] = timings["first_token_s"]
    point["s_per_token"] = timings["s_per_token"]
    point["token_ids"] = token_ids
    point["streamed_bytes_per_sweep"] = weights["streamed_bytes_per_sweep"]
    last = watched.printed or watched.ended
    first = last - timings["decode_s"]
    point["start_to_first_token_s"] = first - watched.started
    point["major_faults_in_decode"] = watched.major_faults_between(first, last)


def read_worker(point: Point, said: dict[str, object], watched: Watched) -> None:
    """Take over what a worker printed."""
    instants, token_ids, prefill_s = said["token_instants"], said["token_ids"], said["prefill_s"]
    assert isinstance(instants, list)
    assert isinstance(token_ids, list)
    assert isinstance(prefill_s, list)
    for key in ("import_s", "load_s", "first_token_s"):
        seconds = said[key]
        assert isinstance(seconds, float)
        point[key] = seconds
    point["s_per_token"] = seconds_per_token(instants)
    point["token_ids"] = token_ids
    point["prefill_s"] = prefill_s
    point["start_to_first_token_s"] = instants[0] - watched.started
    point["major_faults_in_decode"] = watched.major_faults_between(instants[0], instants[-1])


def under(points: Sequence[Point], limit: int | None) -> list[Point]:
    """Return the points of one limit."""
    return [point for point in points if point["limit_bytes"] == limit]


def choose_limits(asked: list[int | None] | None) -> list[int | None]:
    """Return the limits to measure under, before an hour is spent on the first of them."""
    if can_limit():
        return [None, 3 << 30] if asked is None else asked
    if asked is None:
        print("no memory limit can be set here: only root may, as a rule", file=sys.stderr)
        return [None]
    if any(asked):
        raise SystemExit("no memory limit can be set here: run as root, or with --limit none")
    return asked


def make_model(work: Path) -> Path:
    """Make the synthetic model, unless it is there."""
    model = work / "llama-6gb"
    if not (model / "config.json").exists():
        command = [sys.executable, "-m", "airllm_rs", "bench", "make-model", str(model)]
        subprocess.run([*command, *DEFAULT_MODEL.split()], check=True)
    return model


def fio_beside(files: Sequence[Path]) -> float | None:
    """Measure the disk on a program's own files; cached pages would slow direct reads down."""
    page_cache.drop(files)
    return fio.measure(files)


def run_rounds(bench: Bench, limit: int | None, programs: Sequence[Program], out: Path) -> None:
    """Measure the programs in turns, backwards every other round, with fio between them."""
    with fio.huge_pages() as has_fio:
        if not has_fio:
            print("no fio beside the runs: not installed, or no huge pages", file=sys.stderr)
        for number in range(bench.options.rounds):
            for program in programs if number % 2 == 0 else reversed(programs):
                files = bench.peers.files(program)
                before = fio_beside(files) if has_fio else None
                point = bench.measure(program, limit, number)
                after = fio_beside(files) if has_fio else None
                point["fio_gb_per_s"] = [speed for speed in (before, after) if speed is not None]
                bench.points.append(point)
                out.write_text(json.dumps(bench.document(), indent=1), encoding="utf-8")
                step = point["s_per_token"]
                said = point["failure"] or (f"{step:.4f} s/token" if step else "no time")
                busy = point["others_cores"]
                said += f" ({busy:.1f} cores busy elsewhere)" if busy > BUSY_CORES else ""
                print(f"round {number + 1}: {program.name}: {said}", file=sys.stderr)


def print_limit(points: Sequence[Point], limit: int | None) -> None:
    """Print the table of one limit, and how close ours comes to the disk."""
    name = f"memory limit {limit / (1 << 30):.3g} GiB" if limit else "no memory limit"
    print(f"\n{name}\n{table(rows_of(points, OURS))}")
    ratios = [disk_ratio(point) for point in points if point["program"] == OURS]
    ratio = median(ratios)
    if ratio is not None:
        print(f"{OURS}: {ratio:.3f} x the time that fio needs for the bytes of a sweep")


def main(arguments: Sequence[str]) -> None:
    """Run the comparison named on the command line."""
    options = parse_arguments(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.model.resolve() if options.model else make_model(options.work.resolve())
    for wanted in ("config.json", "tokenizer.json", "*.safetensors"):
        if not any(model.glob(wanted)):
            raise SystemExit(f"{model}: no {wanted}")
    out: Path = options.out or RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    limits = choose_limits(options.limit)
    bench = Bench(options, model)
    started = time.monotonic()
    try:
        bench.prepare(options.peers)
        for limit in limits:
            able = [p for p in options.peers if limit is None or not p.needs_all_in_memory]
            run_rounds(bench, limit, able, out)
            print_limit(under(bench.points, limit), limit)
    finally:
        if not options.keep:
            bench.peers.remove_copies()
    print(f"\n{out} ({(time.monotonic() - started) / 60:.1f} min)")


if __name__ == "__main__":
    main(sys.argv[1:])
