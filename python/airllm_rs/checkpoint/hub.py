"""Checkpoints of the Hugging Face hub, downloaded into its own cache."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.disk_space import require_space
from airllm_rs.checkpoint.hub_gguf import by_quantization, choose
from airllm_rs.checkpoint.model_files import read_json
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airllm_rs.stats.progress import Progress

SMALL = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin"])
# Subdirectories hold other formats, and consolidated files a second copy of the weights.
IGNORED = ["*/*", "consolidated*", "adapter_*", "training_args*"]

_POLL_S = 0.5


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    check: Callable[[Mapping[str, object]], object] | None = None,
    has_weights: Callable[[Path], bool] | None = None,
    progress: Progress,
) -> Path:
    """Return the directory of a repository's snapshot, after downloading what it lacks.

    What was interrupted is resumed. ``HF_HUB_OFFLINE`` is honoured. Only configuration, tokenizer
    and weights are downloaded; ``check`` sees config.json before the weights are, and they are not
    if ``has_weights`` says of the snapshot's directory that they are not needed.

    Raises:
        CheckpointError: in one line, whatever the hub says in many.
        NotEnoughSpaceException: if the files would not fit on the disk.
    """
    # a third of a second that local checkpoints need not spend
    from huggingface_hub import snapshot_download

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=patterns,
                ignore_patterns=IGNORED,
            )
        )

    with one_line_errors(repo_id, revision, local_files_only), no_bars_but_ours():
        directory = fetch(SMALL)
        if not (directory / "config.json").exists():
            _refuse_gguf(repo_id, revision, cache_dir, local_files_only, token)
        config = read_json(directory / "config.json", f"{repo_id} has no config.json on the hub")
        if check is not None:
            check(config)
        if has_weights is not None and has_weights(directory):
            return directory
        for patterns in WEIGHTS:
            if not local_files_only:
                needed = _missing_bytes(repo_id, revision, cache_dir, token, patterns)
                with _downloading(_cache(cache_dir), repo_id, needed, progress):
                    fetch([*SMALL, *patterns])
            else:
                fetch([*SMALL, *patterns])
            if any(path for pattern in patterns for path in directory.glob(pattern)):
                return directory
    if local_files_only:
        raise CheckpointError(
            f"{repo_id}: the hub's cache has no weights of it, and local_files_only forbids to "
            "download them: leave it out"
        )
    _refuse_gguf(repo_id, revision, cache_dir, local_files_only, token)
    raise CheckpointError(f"{repo_id} has neither safetensors nor pytorch_model.bin on the hub")


def download_files(
    repo_id: str,
    names: tuple[str, ...],
    *,
    revision: str | None,
    cache_dir: Path | None,
    token: str | None,
    progress: Progress,
) -> Path:
    """Return where the first of some files of a repository is, after downloading those it lacks.

    Raises:
        CheckpointError: in one line, whatever the hub says in many.
        NotEnoughSpaceException: if the files would not fit on the disk.
    """
    from huggingface_hub import snapshot_download

    patterns = list(names)
    with one_line_errors(repo_id, revision), no_bars_but_ours():
        needed = _missing_bytes(repo_id, revision, cache_dir, token, patterns, ignored=[])
        with _downloading(_cache(cache_dir), repo_id, needed, progress):
            directory = snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                allow_patterns=patterns,
            )
    return Path(directory) / names[0]


def cached_gguf(
    repo_id: str, quantization: str, revision: str | None, cache_dir: Path | None
) -> Path:
    """Return where a GGUF file of a repository is in the hub's cache.

    Raises:
        CheckpointError: if it is not there; lists what is.
    """
    home = _cache(cache_dir) / f"models--{repo_id.replace('/', '--')}"
    ref = home / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision or ""
    directory = home / "snapshots" / commit
    if not commit or not directory.is_dir():
        raise CheckpointError(
            f"{repo_id}: the hub's cache does not have it, and local_files_only forbids to "
            "download it"
        )
    sizes = {
        str(path.relative_to(directory)): path.stat().st_size for path in directory.rglob("*.gguf")
    }
    return directory / choose(f"the hub's cache of {repo_id}", quantization, sizes)[0]


def _refuse_gguf(
    repo_id: str,
    revision: str | None,
    cache_dir: Path | None,
    local_files_only: bool,
    token: str | None,
) -> None:
    """Raise `CheckpointError` that says how to name one of the GGUF files of a repository."""
    from huggingface_hub import snapshot_download

    if local_files_only:
        return
    files = snapshot_download(
        repo_id,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        allow_patterns=["*.gguf"],
        ignore_patterns=[],
        dry_run=True,
    )
    sizes = {file.filename: file.file_size or 0 for file in files}
    if sizes:
        found = by_quantization(sizes)
        raise CheckpointError(
            f"{repo_id} has GGUF files; name one, as in {repo_id}:{next(iter(found), 'Q4_K_M')} "
            f"(it has {', '.join(found)})"
        )


def _missing_bytes(
    repo_id: str,
    revision: str | None,
    cache_dir: Path | None,
    token: str | None,
    patterns: list[str],
    ignored: list[str] = IGNORED,
) -> int:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    try:
        files = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            allow_patterns=patterns,
            ignore_patterns=ignored,
            dry_run=True,
        )
    except DryRunError:
        return 0  # offline: nothing will be downloaded
    return sum(file.file_size or 0 for file in files if file.will_download)


def _cache(cache_dir: Path | None) -> Path:
    from huggingface_hub import constants

    return cache_dir if cache_dir is not None else Path(constants.HF_HUB_CACHE)


@contextmanager
def one_line_errors(
    repo_id: str, revision: str | None, local_files_only: bool = False
) -> Iterator[None]:
    """Turn what the hub's client raises into one line that says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        message = (
            "is gated: accept its terms on its page, then pass a token (hf_token= or HF_TOKEN)"
        )
        raise CheckpointError(f"{repo_id} {message}") from error
    except RepositoryNotFoundError as error:
        message = "no such directory, and no such repository on the hub (or it needs a token)"
        raise CheckpointError(f"{repo_id}: {message}") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id} has no revision {revision!r} on the hub") from error
    except LocalEntryNotFoundError as error:
        message = "no such directory, and the hub's cache does not have all of it"
        why = "offline, or the hub is down"
        if local_files_only:
            why += "; local_files_only forbids to download it"
        raise CheckpointError(f"{repo_id}: {message} ({why})") from error
    except (HFValidationError, HfHubHTTPError) as error:
        first = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{repo_id}: {first}") from error


@contextmanager
def no_bars_but_ours() -> Iterator[None]:
    """Keep the hub's client from drawing."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _downloading(home: Path, repo_id: str, needed: int, progress: Progress) -> Iterator[None]:
    """Make sure that there is room, and show how the files of a repository grow.

    The hub's client only counts for its own bars.
    """
    require_space(
        home,
        needed,
        f"downloading {repo_id}",
        "free some, or choose another place with cache_dir= or HF_HOME",
    )
    if not needed:
        yield
        return
    blobs = home / f"models--{repo_id.replace('/', '--')}" / "blobs"
    before = _size(blobs)
    done = threading.Event()
    with progress.task(f"downloading {repo_id}", needed) as task:

        def watch() -> None:
            while not done.wait(_POLL_S):
                task.update(min(max(_size(blobs) - before, 0), needed))

        thread = threading.Thread(target=watch, name="airllm-download-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _size(directory: Path) -> int:
    total = 0
    try:
        for path in directory.iterdir():
            # allocated, not apparent: parts may be written in any order
            total += path.stat().st_blocks * 512
    except OSError:
        return total
    return total
