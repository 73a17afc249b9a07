"""A store made of a checkpoint: planned, written, committed; resumed where it stopped."""

from __future__ import annotations

import errno
import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs import _core
from airllm_rs.checkpoint.disk_space import require_space
from airllm_rs.checkpoint.safetensors_files import RECORDS
from airllm_rs.errors import CheckpointChanged, NotEnoughSpaceException, StoreError
from airllm_rs.store.companions import copy_companions
from airllm_rs.store.identity import ENCODER_VERSION, identify
from airllm_rs.store.jobs import has_own_head, metadata_of, plan_store
from airllm_rs.store.manifest import StoredFile, commit, read_store
from airllm_rs.store.originals import delete_originals
from airllm_rs.store.places import existing_store, held
from airllm_rs.store.registry import forget, register_begun
from airllm_rs.store.repair import damage, reopen
from airllm_rs.store.verification import verify_store
from airllm_rs.store.workforce import Workforce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from airllm_rs.checkpoint import ModelFiles
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family
    from airllm_rs.stats.progress import Progress
    from airllm_rs.store.identity import SourceIdentity
    from airllm_rs.store.jobs import FileJob
    from airllm_rs.store.manifest import Store

log = logging.getLogger(__name__)

_REMEDY = "free some, or choose another place"


@dataclass(frozen=True)
class StoreRequest:
    """What store is wanted, and where."""

    files: ModelFiles
    config: ModelConfig
    family: Family
    scheme: str | None
    directories: tuple[Path, ...]
    """More than one: the units of each layer are spread over them."""
    memory_bytes: int
    """The budget of the whole process."""
    may_delete: bool = False
    """Delete the weights of the checkpoint when the store has been verified."""
    may_repair: bool = False
    """Verify a store that is there already and was not verified yet, and make what is damaged."""


@dataclass(frozen=True)
class Made:
    """What `make_store` did."""

    store: Store
    files_made: int
    files_kept: int
    """Finished by an earlier call, or all of them."""
    read_bytes: int
    """Of the source."""
    deleted_bytes: int = 0
    """Of the original."""


def make_store(request: StoreRequest, progress: Progress) -> Made:
    """Return the store that is asked for, made if it does not exist.

    It is complete or absent; what was interrupted goes on with the first file that is not finished.
    Other processes that want it wait.

    Raises:
        StoreError: if the directory has something else, or the checkpoint is a store already.
        NotEnoughSpaceException: if it would not fit on the disk, or the disk is full on the way.
        CheckpointError: if the checkpoint is not what it claims to be.
        OSError: if a file cannot be read or written.
    """
    identity = identify(request.files.path, request.files.files)
    refuse_what_is_encoded(request.files, request.scheme)
    refuse_what_is_quantised(request.files.path, request.files.schemes, request.scheme)
    with held(request.directories, request.files.path):
        existing = existing_store(request.directories, identity, request.scheme)
        if existing is not None:
            damaged = damage(existing, progress, request.memory_bytes) if request.may_repair else ()
            if not damaged:
                log.info("%s is there already", existing.directory)
                deleted = _delete(request, existing, progress)
                return Made(existing, 0, len(existing.files), 0, deleted)
            reopen(existing, damaged)
        jobs = plan_store(
            request.config, request.family, request.files, request.scheme, len(request.directories)
        )
        if request.scheme and not any(tensor.scheme for job in jobs for tensor in job.tensors):
            log.warning(
                "nothing is encoded: %s has no matrix with 256 rows and columns or more that "
                "%s takes",
                request.files.path.name,
                request.scheme,
            )
        return _make(request, identity, jobs, progress)


def _make(
    request: StoreRequest,
    identity: SourceIdentity,
    jobs: Sequence[FileJob],
    progress: Progress,
) -> Made:
    check_space(request.directories, jobs, f"making a store of {request.files.path.name}")
    workforce = Workforce.of(jobs, request.memory_bytes)
    begin(request.directories, identity)
    companions = copy_companions(
        request.files.path,
        request.directories[0],
        request.scheme,
        has_own_head=has_own_head(jobs),
    )
    counts = Counts()
    total = sum(job.source_bytes for job in jobs)
    label = f"{'encoding' if request.scheme else 'copying'} {request.files.path.name}"
    with progress.task(label, total) as task:

        def advance(nbytes: int, made: int, kept: int) -> None:
            counts.update(nbytes, made, kept)
            task.update(nbytes)

        files = write_files(
            request.directories,
            list(request.files.files),
            jobs,
            metadata_of(identity, request.scheme, request.files.main_dtype, ENCODER_VERSION),
            workforce,
            advance,
        )
    if identify(request.files.path, request.files.files) != identity:
        raise CheckpointChanged(f"{request.files.path} was changed while it was read; start again")
    store = finish(
        request.directories,
        request.scheme,
        identity,
        files,
        companions,
        has_copied_head=request.config.tie_word_embeddings and has_own_head(jobs),
    )
    deleted = _delete(request, store, progress)
    return Made(store, counts.made, counts.kept, counts.nbytes, deleted)


def _delete(request: StoreRequest, store: Store, progress: Progress) -> int:
    """Delete the original, if that is asked for, and return the bytes that are free now."""
    if not request.may_delete:
        return 0
    verify_store(store.directory, progress, request.memory_bytes)
    deleted = delete_originals(request.files)
    if deleted:
        log.info("deleted %.2f GB of %s", deleted / 1e9, request.files.path)
    else:
        log.warning(
            "nothing of %s was deleted: its weights lie elsewhere, or others use them too",
            request.files.path,
        )
    return deleted


def begin(directories: Sequence[Path], identity: SourceIdentity) -> None:
    """Make known whose the directories are: in them, and to `airllm-rs cache`."""
    for directory in directories:
        (directory / RECORDS).mkdir(exist_ok=True)
        register_begun(directory, identity.name)


class Counts:
    """How far the writer is."""

    def __init__(self) -> None:
        self.nbytes = self.made = self.kept = 0

    def update(self, nbytes: int, made: int, kept: int) -> None:
        """Take note of what the writer says."""
        self.nbytes, self.made, self.kept = nbytes, made, kept


def write_files(
    directories: Sequence[Path],
    sources: Sequence[str],
    jobs: Sequence[FileJob],
    metadata: dict[str, str],
    workforce: Workforce,
    advance: Callable[[int, int, int], object],
    numbers: dict[int, int] | None = None,
) -> list[StoredFile]:
    """Make files of a store; a full disk is told in words.

    Raises:
        NotEnoughSpaceException: if the disk is full; what is finished is kept.
        OSError: for whatever else the disk says.
    """
    numbers = numbers or {number: number for number in range(len(sources))}
    try:
        records = _core.write_store(
            list(directories),
            list(sources),
            [job.as_core(metadata, numbers) for job in jobs],
            threads=workforce.threads,
            block_bytes=workforce.block_bytes,
            progress=advance,
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NotEnoughSpaceException(
            f"{error.filename}: the disk is full; the layers that are finished are kept: "
            "free some room and do the same again"
        ) from error
    files = [StoredFile(*record) for record in records]
    for file in files:
        for name in file.not_finite:
            log.warning("%s holds NaN or infinity, and stays as it is", name)
    return files


def finish(
    directories: Sequence[Path],
    scheme: str | None,
    identity: SourceIdentity,
    files: Sequence[StoredFile],
    companions: Sequence[str],
    *,
    has_copied_head: bool,
) -> Store:
    """Commit a store whose files are all finished, and return it.

    Args:
        directories: Where its files are.
        scheme: How its matrices are encoded.
        identity: What it was made of.
        files: Its files.
        companions: The files beside them.
        has_copied_head: Whether it has a head that was made of the embedding table.
    """
    expected = {(file.directory, file.name) for file in files}
    for number, directory in enumerate(directories):
        # of an earlier attempt with another scheme
        for record in (directory / RECORDS).glob("*.safetensors.json"):
            if (number, record.stem) not in expected:
                (directory / record.stem).unlink(missing_ok=True)
    source = {**identity.as_json(), "tied": True} if has_copied_head else identity.as_json()
    commit(directories, scheme, source, files, companions)
    for directory in directories:
        shutil.rmtree(directory / RECORDS, ignore_errors=True)
    for other in directories[1:]:
        forget(other)
    store = read_store(directories[0])
    assert store is not None, "just committed"
    return store


def check_space(
    directories: Sequence[Path], jobs: Sequence[FileJob], what: str, extra: int = 0
) -> None:
    """Raise unless what is still to be written fits, each disk for itself.

    Args:
        directories: Where the files go.
        jobs: The files.
        what: What needs the room, for people.
        extra: Bytes that the first directory holds for a while.

    Raises:
        NotEnoughSpaceException: naming what is needed and what is free.
    """
    needed: dict[int, int] = {directories[0].stat().st_dev: extra}
    places: dict[int, Path] = {}
    for number, directory in enumerate(directories):
        device = directory.stat().st_dev
        places.setdefault(device, directory)
        for job in jobs:
            if job.directory == number:
                has = max(_taken(directory / job.name), _taken(directory / f"{job.name}.tmp"))
                needed[device] = needed.get(device, 0) + max(job.nbytes - has, 0)
    for device, nbytes in needed.items():
        require_space(places[device], nbytes, what, _REMEDY)


def _taken(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def refuse_what_is_encoded(files: ModelFiles, scheme: str | None) -> None:
    """Raise if the checkpoint is a GGUF file, or a store whose weights are encoded.

    Raises:
        StoreError: saying what to do.
    """
    directory = files.path
    if any(path.endswith(".gguf") for path in files.files):
        instead = "leave compression= out" if scheme else "run it as it is"
        raise StoreError(
            f"{files.files[0]} is read as it is, and no copy is made of a GGUF file: {instead}, "
            "or start from the original checkpoint"
        )
    source = read_store(directory)
    if source is not None and source.scheme is not None:
        wanted = f"compression={scheme!r}" if scheme else "another copy"
        raise StoreError(
            f"{directory} is a shard store with {source.scheme} weights: for {wanted}, "
            f"start from the original checkpoint, {source.source.get('name', 'unknown')}"
        )


def refuse_what_is_quantised(name: object, schemes: Iterable[str], scheme: str | None) -> None:
    """Raise if weights would be encoded a second time, which only makes them worse.

    Args:
        name: Of the checkpoint.
        schemes: How its weights are packed; none if they are not.
        scheme: What they would be encoded with, None if they would not.

    Raises:
        StoreError: saying what to do.
    """
    listed = ", ".join(schemes)
    if scheme is not None and listed:
        raise StoreError(
            f"{name} is quantised already ({listed}), and compression={scheme!r} would encode it "
            "again: leave compression= out, which runs the weights as they are, or start from the "
            "original checkpoint"
        )
