"""Run one process, under a memory limit or none, and keep what the kernel says about it."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from cgroup import Counters, MemoryGroup

INTERVAL_S = 0.02  # one look costs 0.1 ms
TIMEOUT_S = 3600.0


@dataclass
class Watched:
    """A finished process and what it used."""

    returncode: int
    started: float  # instants of the monotonic clock
    printed: float | None  # when stdout had its first byte
    ended: float
    stdout: str
    stderr: str
    peak_anon_bytes: int = 0
    peak_file_bytes: int = 0  # of mapped files and shared memory
    peak_rss_bytes: int = 0  # of both together, at one instant
    read_bytes: int = 0  # what it made the disk read
    major_faults: list[tuple[float, int]] = field(default_factory=list)  # instant, count so far
    counters: Counters | None = None
    others_cores: float = (
        0.0  # processor time that went elsewhere, per second: 0 on a quiet machine
    )

    def major_faults_between(self, start: float, end: float) -> int:
        """Return the major faults between two instants, as closely as the looks allow."""
        inside = [count for at, count in self.major_faults if start <= at <= end]
        return inside[-1] - inside[0] if inside else 0

    @property
    def failure(self) -> str | None:
        """Why there is no result, in one line."""
        if self.returncode == 0:
            return None
        if self.returncode == -signal.SIGKILL:
            return "killed (out of memory?)"
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return f"exit {self.returncode}: {lines[-1][:160] if lines else 'nothing on stderr'}"


def watch(
    command: Sequence[str], directory: Path, limit_bytes: int | None, threads: int
) -> Watched:
    """Run ``command`` with its output in ``directory``; its group is made and removed here."""
    with MemoryGroup(limit_bytes) if limit_bytes else nullcontext() as group:
        out, err = directory / "stdout", directory / "stderr"
        # The shell joins the group and becomes the command: not a page is charged elsewhere.
        joining = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.procs)] if group else []
        # No peer may import from another environment than its own.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with out.open("wb") as stdout, err.open("wb") as stderr:
            started, busy = time.monotonic(), busy_seconds()
            process = subprocess.Popen(
                [*joining, *command],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment,
            )
            watched = Watched(0, started, None, started, "", "")
            try:
                _follow(process.pid, out, watched)
            finally:
                process.kill()
                watched.returncode = process.wait()
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            own = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
            elsewhere = busy_seconds() - busy - own
            watched.others_cores = max(0.0, elsewhere / (watched.ended - started))
        watched.counters = group.read() if group else None
    watched.stdout = out.read_text(encoding="utf-8", errors="replace")
    watched.stderr = err.read_text(encoding="utf-8", errors="replace")
    return watched


def _follow(pid: int, out: Path, watched: Watched) -> None:
    """Look at the process until it is a zombie, which still has its counters."""
    deadline = watched.started + TIMEOUT_S
    has_ended = False
    while not has_ended and time.monotonic() < deadline:
        # Asked before the look, so that the last look is at the zombie.
        has_ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        _look(pid, watched)
        if watched.printed is None and out.stat().st_size:
            watched.printed = time.monotonic()
        if not has_ended:
            time.sleep(INTERVAL_S)
    watched.ended = time.monotonic()


def _look(pid: int, watched: Watched) -> None:
    process = Path(f"/proc/{pid}")
    memory = status_bytes((process / "status").read_text(encoding="utf-8"))
    anon = memory.get("RssAnon", 0)
    file = memory.get("RssFile", 0) + memory.get("RssShmem", 0)
    watched.peak_anon_bytes = max(watched.peak_anon_bytes, anon)
    watched.peak_file_bytes = max(watched.peak_file_bytes, file)
    watched.peak_rss_bytes = max(watched.peak_rss_bytes, anon + file)
    faults = major_faults((process / "stat").read_text(encoding="utf-8"))
    watched.major_faults.append((time.monotonic(), faults))
    io = (process / "io").read_text(encoding="utf-8")
    watched.read_bytes = int(dict(line.split(": ") for line in io.splitlines())["read_bytes"])


def status_bytes(status: str) -> dict[str, int]:
    """Return the sizes in /proc/PID/status; a zombie has none."""
    sizes = (line.split() for line in status.splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in sizes}


def major_faults(stat: str) -> int:
    """Return majflt of /proc/PID/stat, whose second field may hold spaces and brackets."""
    return int(stat.rpartition(")")[2].split()[9])


def busy_seconds() -> float:
    """Return the seconds that all processors together have worked since boot, for anyone."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
