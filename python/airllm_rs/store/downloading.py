"""A store made while its checkpoint is downloaded: no source file stays longer than needed."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.checkpoint.safetensors_files import RECORDS
from airllm_rs.checkpoint.stored import TensorInfo
from airllm_rs.errors import CheckpointError
from airllm_rs.store.companions import copy_companions
from airllm_rs.store.identity import ENCODER_VERSION, SourceIdentity
from airllm_rs.store.jobs import (
    FORMAT_VERSION,
    FileJob,
    TensorJob,
    has_own_head,
    metadata_of,
    plan_store,
)
from airllm_rs.store.making import (
    Counts,
    Made,
    begin,
    check_space,
    finish,
    write_files,
)
from airllm_rs.store.manifest import StoredFile
from airllm_rs.store.places import existing_store, held
from airllm_rs.store.repair import damage, reopen
from airllm_rs.store.workforce import Workforce, verifying_threads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from airllm_rs.checkpoint.remote import RemoteCheckpoint
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family
    from airllm_rs.stats.progress import Progress

log = logging.getLogger(__name__)

DOWNLOADS = "download"


@dataclass(frozen=True)
class DownloadRequest:
    """What store is wanted of what is on the hub, and where."""

    remote: RemoteCheckpoint
    snapshot: Path
    """Has configuration and tokenizer."""
    config: ModelConfig
    family: Family
    scheme: str | None
    directories: tuple[Path, ...]
    memory_bytes: int


@dataclass
class _Work:
    request: DownloadRequest
    metadata: Mapping[str, str]
    downloads: Path
    progress: Progress
    workforce: Workforce
    paths: dict[int, Path] = field(default_factory=dict)
    """The source files that are here."""


def make_while_downloading(request: DownloadRequest, progress: Progress) -> Made:
    """Return the store that is asked for: files are fetched, encoded, verified and dropped.

    The disk holds the result and, where layers do not span more, two files of the source.

    Raises:
        StoreError: if the directory has something else.
        NotEnoughSpaceException: if it would not fit on the disk.
        CheckpointError: if what arrives is not what the hub says.
        OSError: if a file cannot be written.
    """
    remote = request.remote
    sizes = tuple((file.name, file.nbytes, 0) for file in remote.files)
    identity = SourceIdentity(remote.repo_id, remote.commit, sizes)
    with held(request.directories, request.snapshot):
        existing = existing_store(request.directories, identity, request.scheme)
        if existing is not None:
            damaged = damage(existing, progress, request.memory_bytes)
            if not damaged:
                log.info("%s is there already", existing.directory)
                return Made(existing, 0, len(existing.files), 0)
            reopen(existing, damaged)
        jobs = plan_store(
            request.config, request.family, remote, request.scheme, len(request.directories)
        )
        metadata = metadata_of(identity, request.scheme, remote.main_dtype, ENCODER_VERSION)
        downloads = request.directories[0] / RECORDS / DOWNLOADS
        work = _Work(
            request, metadata, downloads, progress, Workforce.of(jobs, request.memory_bytes)
        )
        done = _finished(request.directories, jobs, metadata)
        left = [job for job in jobs if (job.directory, job.name) not in done]
        check_space(
            request.directories,
            jobs,
            f"making a store of {remote.repo_id}",
            extra=peak_of_sources(left, [file.nbytes for file in remote.files]),
        )
        begin(request.directories, identity)
        companions = copy_companions(
            request.snapshot,
            request.directories[0],
            request.scheme,
            has_own_head=has_own_head(jobs),
        )
        read = _run(work, left, done)
        files = [done[job.directory, job.name] for job in jobs]
        shutil.rmtree(downloads, ignore_errors=True)
        store = finish(
            request.directories,
            request.scheme,
            identity,
            files,
            companions,
            has_copied_head=request.config.tie_word_embeddings and has_own_head(jobs),
        )
    return Made(store, len(left), len(jobs) - len(left), read)


def peak_of_sources(jobs: Sequence[FileJob], sizes: Sequence[int]) -> int:
    """Return the most bytes of source files that are on the disk at once."""
    peak = 0
    present: set[int] = set()
    remaining = list(jobs)
    for number in range(len(sizes)):
        if not any(number in job.sources for job in remaining):
            continue
        present.add(number)
        peak = max(peak, sum(sizes[file] for file in present))
        remaining = [job for job in remaining if not job.sources <= set(range(number + 1))]
        present = {file for file in present if any(file in job.sources for job in remaining)}
    return peak


def _run(work: _Work, left: Sequence[FileJob], done: dict[tuple[int, str], StoredFile]) -> int:
    remote, read = work.request.remote, 0
    remaining = list(left)
    for number, file in enumerate(remote.files):
        if not any(number in job.sources for job in remaining):
            continue
        work.paths[number] = remote.fetch(file, work.downloads, work.progress)
        ready = [job for job in remaining if job.sources <= set(range(number + 1))]
        for stored in _encode(work, ready):
            done[stored.directory, stored.name] = stored
        read += sum(job.source_bytes for job in ready)
        remaining = [job for job in remaining if job not in ready]
        for unused in [
            held_file
            for held_file in work.paths
            if not any(held_file in job.sources for job in remaining)
        ]:
            work.paths.pop(unused).unlink()
    return read


def _encode(work: _Work, jobs: Sequence[FileJob]) -> list[StoredFile]:
    """Write files whose sources are here, and read them back before those go."""
    if not jobs:
        return []
    numbers = sorted(work.paths)
    located = [_located(job, work) for job in jobs]
    counts = Counts()
    total = sum(job.source_bytes for job in jobs)
    name = work.request.remote.repo_id
    with work.progress.task(f"encoding {name}", total) as task:

        def advance(nbytes: int, made: int, kept: int) -> None:
            counts.update(nbytes, made, kept)
            task.update(nbytes)

        files = write_files(
            work.request.directories,
            [str(work.paths[number]) for number in numbers],
            located,
            dict(work.metadata),
            work.workforce,
            advance,
            {number: index for index, number in enumerate(numbers)},
        )
    for number, directory in enumerate(work.request.directories):
        own = [file._replace(directory=0) for file in files if file.directory == number]
        manifest = {
            "format_version": FORMAT_VERSION,
            "id": "",
            "scheme": None,
            "source": {},
            "directories": ["."],
            "files": [file._asdict() for file in own],
        }
        threads = verifying_threads(work.request.memory_bytes)
        _core.verify_store(directory, threads=threads, manifest=json.dumps(manifest))
    return files


def _located(job: FileJob, work: _Work) -> FileJob:
    """Return a job with the offsets that the files here have."""
    opened = {number: _core.Checkpoint.open(work.paths[number]) for number in sorted(job.sources)}
    tensors = []
    for tensor in job.tensors:
        number = tensor.info.file
        # a tied head is made of the table
        source = _name_in(work.request.remote, tensor)
        found = TensorInfo(*opened[number].tensor(source))._replace(file=number)
        if (found.dtype, found.shape) != (tensor.info.dtype, tensor.info.shape):
            raise CheckpointError(f"{source} is not what its header on the hub said: try again")
        tensors.append(TensorJob(tensor.name, found, tensor.scheme))
    return FileJob(job.name, job.layer, job.directory, tuple(tensors))


def _name_in(remote: RemoteCheckpoint, tensor: TensorJob) -> str:
    if remote.tensors.get(tensor.name) == tensor.info:
        return tensor.name
    return next(name for name, info in remote.tensors.items() if info == tensor.info)


def _finished(
    directories: Sequence[Path], jobs: Sequence[FileJob], metadata: Mapping[str, str]
) -> dict[tuple[int, str], StoredFile]:
    """Return the files that an earlier call has finished, of the same source and scheme."""
    found = {}
    for job in jobs:
        directory = directories[job.directory]
        try:
            record = json.loads((directory / RECORDS / f"{job.name}.json").read_bytes())
            stored = StoredFile(**{name: record[name] for name in StoredFile._fields})
            path = directory / job.name
            is_whole = path.stat().st_size == stored.nbytes
            if is_whole and _core.Checkpoint.open(path).metadata == metadata:
                found[job.directory, job.name] = stored._replace(directory=job.directory)
        except (OSError, ValueError, KeyError, TypeError, CheckpointError):
            continue  # made anew
    return found
