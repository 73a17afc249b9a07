"""A run as a trace that Chrome and Perfetto show, and that `bench io --replay` repeats."""

from __future__ import annotations

import errno
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.errors import AirLLMError
from airllm_rs.memory.report import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airllm_rs.auto.model import Model

log = logging.getLogger(__name__)

FORMAT = "airllm-rs trace"
VERSION = 1
# Tracks by kind. Spans that overlap cannot share one, so a kind has as many lanes as it needs.
_TRACKS = {"layer": (1, "layers"), "wait": (2, "waits"), "request": (1000, "requests"),
           "lease": (2000, "leases")}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """Something that lasted."""

    kind: str
    """``"request"``, ``"wait"``, ``"lease"`` or ``"layer"``."""
    name: str
    begin_ns: int
    end_ns: int
    args: Mapping[str, object]


@dataclass(frozen=True)
class Recorded:
    """The requests of a recorded run."""

    files: list[Path]
    requests: list[tuple[int, int, int]]
    """(file, offset, nbytes) in the order of submission."""
    engine: str
    queue_depth: int

    @property
    def largest_bytes(self) -> int:
        """The longest request."""
        return max(nbytes for _, _, nbytes in self.requests)

    @property
    def total_bytes(self) -> int:
        """All requests together."""
        return sum(nbytes for _, _, nbytes in self.requests)

    def moved_to(self, paths: Sequence[Path]) -> Recorded:
        """Return the same requests for files of the same names: these, or in these directories.

        Raises:
            AirLLMError: if one is not among them.
        """
        there = {path.name: path for path in paths if not path.is_dir()}
        for directory in (path for path in paths if path.is_dir()):
            there |= {path.name: path for path in directory.iterdir() if path.is_file()}
        missing = [file.name for file in self.files if file.name not in there]
        if missing:
            given = ", ".join(map(str, paths))
            raise AirLLMError(f"the trace reads {missing[0]}, which is not in {given}")
        files = [there[file.name] for file in self.files]
        return Recorded(files, self.requests, self.engine, self.queue_depth)


def check_target(file: Path) -> None:
    """Make sure, before a model is loaded for it, that a trace can be written.

    Raises:
        OSError: if the directory does not exist, or the path is one.
    """
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file.parent))
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))


def write_trace(file: Path, model: Model) -> None:
    """Write what a model recorded that was loaded with the option ``trace``; takes it out.

    The model is closed before, so that everything that was read is in it.

    Raises:
        OSError: if the file cannot be written; what was there before stays then.
    """
    readahead = model.executor.weights.readahead
    stats = readahead.stats()
    plan, files = model.plan, model.opened.files.files
    sizes = [Path(path).stat().st_size for path in files]
    if stats["trace_dropped"]:
        log.warning(
            "the trace lacks its oldest %d events: the run was long", stats["trace_dropped"]
        )
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "files": [
            {"path": path, "nbytes": nbytes} for path, nbytes in zip(files, sizes, strict=True)
        ],
        "engine": stats["engine"],
        "request_bytes": stats["request_bytes"],
        "queue_depth": stats["queue_depth"],
        "bytes_read": stats["bytes_read"],
        "requests": stats["requests"],
        "dropped": stats["trace_dropped"],
        "model": str(model.opened.files.path),
        "plan": to_json(plan),
    }
    spans = [*_of_readahead(readahead.trace(), [unit.name for unit in plan.units], sizes)]
    spans += _of_layers(model.layer_spans, model.opened.config.num_hidden_layers)
    save(file, spans, metadata)


def save(file: Path, spans: Iterable[Span], metadata: Mapping[str, object]) -> None:
    """Write spans so that the file is either whole or as it was."""
    events = list(_events(sorted(spans, key=lambda span: (span.begin_ns, span.end_ns))))
    told = {"traceEvents": events, "displayTimeUnit": "ms", "metadata": dict(metadata)}
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            json.dump(told, out, allow_nan=False)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_trace(file: Path) -> Recorded:
    """Return the requests of a trace that `write_trace` wrote.

    Raises:
        AirLLMError: if it is none, or has no requests.
        OSError: if the file cannot be read.
    """
    try:
        told = json.loads(file.read_bytes())
        metadata = told["metadata"]
        if (metadata["format"], metadata["version"]) != (FORMAT, VERSION):
            raise ValueError("another format")
        files = [Path(entry["path"]) for entry in metadata["files"]]
        spans = [event for event in told["traceEvents"] if event.get("cat") == "request"]
        spans.sort(key=lambda event: event["ts"])
        requests = [
            (_index(args["file"], len(files)), _index(args["offset"]), _index(args["nbytes"]))
            for args in (event["args"] for event in spans)
        ]
        engine, depth = str(metadata["engine"]), _index(metadata["queue_depth"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise AirLLMError(
            f"{file} is no trace of airllm-rs: record one with run MODEL --trace FILE"
        ) from error
    requests = [request for request in requests if request[2]]
    if not requests:
        raise AirLLMError(f"{file} has no requests: the run read nothing from the disk")
    return Recorded(files, requests, engine, depth)


def _of_readahead(
    recorded: Iterable[tuple[str, int, int, int, int, int, int]],
    names: Sequence[str],
    sizes: Sequence[int],
) -> Iterator[Span]:
    for kind, unit, file, offset, nbytes, begin, end in recorded:
        name = names[unit] if 0 <= unit < len(names) else kind
        args: dict[str, object] = {"unit": name, "nbytes": nbytes}
        if kind == "request":
            # the last one of a file ends with the file, not with the block
            held = min(nbytes, sizes[file] - offset)
            args |= {"file": file, "offset": offset, "nbytes": held}
        yield Span(kind, name, begin, end, args)


def _of_layers(marks: Iterable[tuple[int, int, int, int]], layers: int) -> Iterator[Span]:
    for sweep, done, begin, end in marks:
        if done < 0:
            yield Span("layer", "lm_head", begin, end, {"sweep": sweep})
            continue
        chunk, layer = divmod(done, layers)
        args = {"sweep": sweep, "layer": layer, "chunk": chunk}
        yield Span("layer", f"layers.{layer}", begin, end, args)


def _events(spans: Iterable[Span]) -> Iterator[dict[str, object]]:
    """Yield the events of spans that are sorted by their beginning, then the tracks' names."""
    busy: dict[str, list[int]] = {}
    for span in spans:
        lanes = busy.setdefault(span.kind, [])
        lane = next((i for i, end in enumerate(lanes) if end <= span.begin_ns), len(lanes))
        lanes[lane : lane + 1] = [span.end_ns]
        yield {
            "ph": "X",
            "cat": span.kind,
            "name": span.name,
            "pid": 1,
            "tid": _TRACKS[span.kind][0] + lane,
            # Chrome counts in microseconds
            "ts": span.begin_ns / 1e3,
            "dur": max(span.end_ns - span.begin_ns, 0) / 1e3,
            "args": dict(span.args),
        }
    for kind, lanes in busy.items():
        first, label = _TRACKS[kind]
        for lane in range(len(lanes)):
            name = label if lane == 0 else f"{label} {lane + 1}"
            track = {"ph": "M", "pid": 1, "tid": first + lane}
            yield {**track, "name": "thread_name", "args": {"name": name}}
            yield {**track, "name": "thread_sort_index", "args": {"sort_index": first + lane}}


def _index(value: object, below: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number is needed")
    if value < 0 or (below is not None and value >= below):
        raise ValueError("out of range")
    return value
