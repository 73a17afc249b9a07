"""What `doctor` looks at, one function each, none of which imports torch."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from airllm_rs.auto.accelerators import choose_device, find_accelerators
from airllm_rs.checkpoint import cache_directory
from airllm_rs.cli.block_device import text_of
from airllm_rs.cli.file_system import file_system
from airllm_rs.cli.place import description, hints
from airllm_rs.memory import choose_budget, format_bytes
from airllm_rs.memory.arithmetic import has_bf16_arithmetic
from airllm_rs.memory.budget import this_machine
from airllm_rs.weights.engines import build_profile, probe_engines
from airllm_rs.weights.huge_pages import huge_page_share

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/")

_SIMD = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon")
_LITTLE = 2 << 30
_HUGE_GAIN = "reads take 5 to 10 times less CPU"
_MOST_HUGE = 0.9
_PROBED_BYTES = 64 << 10
_PAST_THE_CACHE = ("uring", "direct")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """Its key in JSON."""
    label: str
    text: str
    facts: object
    """The same for programs."""
    hint: str | None = None
    """What to change; None if all is well."""

    @property
    def ok(self) -> bool:
        """Whether there is nothing to change."""
        return self.hint is None


def examine(path: Path | None, root: Path = ROOT) -> list[Finding]:
    """Look at everything.

    Args:
        path: A model, or a directory for models; our cache directory if None.
        root: Where /proc and /sys are found.

    Raises:
        OSError: if there is no such path.
    """
    place = (path or cache_directory()).expanduser()
    if path is not None:
        place.stat()
    return [
        *_reading(place),
        _place(place, root),
        *_huge_pages(root),
        _locked_memory(),
        _cgroup(root),
        _memory(root),
        _cpu(root),
        *_gpus(root),
        _versions(),
        _cache(),
    ]


def _reading(place: Path) -> list[Finding]:
    try:
        with _probed(place) as file:
            probes = probe_engines(file)
    except OSError as error:
        change = "give a PATH that can be read or written to, or set AIRLLM_RS_CACHE"
        return [Finding("engines", "engines", f"{place}: {error.strerror}", [], change)]
    hint = None
    able = [probe for probe in probes if probe.ok]
    refused = [f"{probe.engine}: {probe.reason}" for probe in probes if not probe.ok]
    text = ", ".join(probe.engine for probe in able) or "none"
    if not any(probe.engine == "uring" for probe in able):
        hint = "allow io_uring (sysctl kernel.io_uring_disabled=0, the container's seccomp profile)"
    if refused:
        text += f" ({'; '.join(refused)})"
    direct = [probe for probe in able if probe.engine in _PAST_THE_CACHE]
    engines = Finding("engines", "engines", text, [probe._asdict() for probe in probes], hint)
    if direct:
        said = f"yes, in multiples of {direct[0].alignment} bytes"
        return [engines, Finding("direct_io", "direct I/O", said, True)]
    hint = "put models on a local disk with ext4, xfs or btrfs: reads are faster there"
    return [engines, Finding("direct_io", "direct I/O", "no", False, hint)]


@contextmanager
def _probed(place: Path) -> Iterator[Path]:
    """Yield a file to read: the path itself, a model's file in it, or one made for the purpose."""
    if place.is_file():
        yield place
        return
    if place.is_dir():
        weights = next(filter(Path.is_file, sorted(place.glob("*.safetensors"))), None)
        if weights is not None:
            yield weights
            return
    else:
        place.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(prefix=".probe.", dir=place) as file:
        file.write(bytes(_PROBED_BYTES))
        file.flush()
        os.fsync(file.fileno())  # direct reads go to the disk
        yield Path(file.name)


def _place(place: Path, root: Path) -> Finding:
    existing = place
    while not existing.exists():
        existing = existing.parent
    found = file_system(existing, root)
    text = description(found, format_bytes(found.free_bytes))
    hint = "; ".join(hints(found)) or None
    return Finding("file_system", "file system", text, asdict(found), hint)


def _huge_pages(root: Path) -> list[Finding]:
    setting = root / "sys/kernel/mm/transparent_hugepage/enabled"
    chosen = text_of(setting).partition("[")[2].partition("]")[0] or None
    text = chosen or "the kernel has none"
    hint = None
    if chosen == "never":
        hint = f"echo madvise | sudo tee /{setting.relative_to(root)} ({_HUGE_GAIN})"
    elif chosen is None:
        hint = f"use a kernel with transparent huge pages ({_HUGE_GAIN})"
    share = huge_page_share()
    missing = None
    if hint is None and share < _MOST_HUGE:
        missing = (
            "free memory is in pieces, or short: echo 1 | sudo tee /proc/sys/vm/compact_memory, "
            f"or close other programs ({_HUGE_GAIN})"
        )
    measured = f"{share:.0%} of an arena is in huge pages"
    return [
        Finding("huge_pages", "transparent huge pages", text, chosen, hint),
        Finding("huge_page_share", "huge pages in use", measured, share, missing),
    ]


def _locked_memory() -> Finding:
    if sys.platform == "win32":
        return Finding("memlock_bytes", "memlock limit", "none", None)
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return Finding("memlock_bytes", "memlock limit", "unlimited", None)
    text = f"{format_bytes(soft)}; io_uring registers a ring that is smaller, which saves a little"
    return Finding("memlock_bytes", "memlock limit", text, soft)


def _cgroup(root: Path) -> Finding:
    group = this_machine(root).cgroup
    if group is None:
        return Finding("cgroup", "memory cgroup", "no limit", None)
    text = f"{format_bytes(group.used_bytes)} of {format_bytes(group.limit_bytes)} used"
    text += f" ({group.path}), limit reached {group.failures} times"
    return Finding("cgroup", "memory cgroup", text, {**asdict(group), "path": str(group.path)})


def _memory(root: Path) -> Finding:
    machine = this_machine(root)
    budget = choose_budget("auto", machine)
    available = f"{format_bytes(machine.available_bytes)} of {format_bytes(machine.total_bytes)}"
    text = f"{available} available; --memory auto takes {format_bytes(budget.nbytes)}"
    hint = None
    if budget.nbytes < _LITTLE:
        hint = "little is left for a model: close other programs, or raise the cgroup's limit"
    facts = {
        "total_bytes": machine.total_bytes,
        "available_bytes": machine.available_bytes,
        "auto_bytes": budget.nbytes,
        "auto_source": budget.source,
    }
    return Finding("memory", "memory", text, facts, hint)


def _cpu(root: Path) -> Finding:
    name, flags = "", set[str]()
    for line in text_of(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags.update(value.split())
            break
        if key.strip() == "model name":
            name = value.strip()
    if flags & {"asimd", "neon"}:
        flags.add("neon")
    simd = [flag for flag in _SIMD if flag in flags]
    native = has_bf16_arithmetic()
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    bf16 = "bf16 is native" if native else "bf16 is computed in float32"
    text = f"{name or platform.machine()}, {cores} cores, {', '.join(simd) or 'no SIMD'}; {bf16}"
    facts = {"name": name, "cores": cores, "simd": simd, "bf16_arithmetic": native}
    return Finding("cpu", "CPU", text, facts)


def _gpus(root: Path) -> list[Finding]:
    # the driver's library is asked of this machine, not of another's files
    found = (
        find_accelerators(root)
        if root == ROOT
        else find_accelerators(root, system="Linux", count_driver=lambda: 0)
    )
    choice = choose_device("auto", found)
    text = f"{', '.join(map(str, found)) or 'none'}; only the CPU executor exists"
    return [
        Finding("gpus", "GPUs", text, [entry.name for entry in found]),
        Finding("device", "device auto", f"{choice.device}: {choice.why}", choice._asdict()),
    ]


def _versions() -> Finding:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("airllm_rs", "torch", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    profile = build_profile()
    missing = [name for name, found in versions.items() if found is None]
    text = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
    text += f", {profile} build, {platform.system()} {platform.release()}"
    hint = None
    if missing:
        hint = f"pip install {' '.join(missing)}"
    elif profile == "debug":
        hint = "make release: the timings of a debug build mean nothing"
    facts = {**versions, "build_profile": profile, "kernel": platform.release()}
    return Finding("versions", "versions", text, facts, hint)


def _cache() -> Finding:
    directory = cache_directory()
    nbytes = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                nbytes += (Path(folder) / name).lstat().st_size
            except OSError:
                continue  # removed meanwhile
    text = f"{directory}, {format_bytes(nbytes)}"
    return Finding("cache", "cache", text, {"path": str(directory), "nbytes": nbytes})
