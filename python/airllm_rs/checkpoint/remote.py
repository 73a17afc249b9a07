"""A repository of the hub whose weights are looked at before they are downloaded, file by file."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.hub import IGNORED, WEIGHTS, no_bars_but_ours, one_line_errors
from airllm_rs.checkpoint.stored import StoredWeight, TensorInfo, main_dtype, one_of_those, plain
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airllm_rs.stats.progress import Progress

_POLL_S = 0.5
_PIECE = 4 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file with weights on the hub."""

    name: str
    nbytes: int
    sha256: str | None


@dataclass(frozen=True)
class RemoteCheckpoint:
    """The tensors of a repository, from headers that are read by range."""

    repo_id: str
    commit: str
    token: str | None = field(repr=False)
    files: tuple[RemoteFile, ...] = field(repr=False)
    tensors: dict[str, TensorInfo] = field(repr=False)
    """Offsets count from the start of the data, as the headers have them."""
    packed: Mapping[str, StoredWeight] = field(default_factory=dict, repr=False)
    """None: what parts mean is told by the files, which are not here."""

    def names(self) -> list[str]:
        """Return the names of all tensors, in the order of the files."""
        return list(self.tensors)

    def weight_names(self) -> list[str]:
        """Return the names of all weights, each a plain tensor."""
        return self.names()

    def stored(self, name: str) -> StoredWeight:
        """Return how a weight is stored."""
        return one_of_those(name, lambda whole: plain(whole, self.tensors[whole]))

    def tensor(self, name: str) -> TensorInfo:
        """Return what a tensor is; its offset is known when its file is here."""
        return self.tensors[name]

    @property
    def main_dtype(self) -> str:
        """The dtype that most bytes of weights have."""
        return main_dtype(self.tensors.values())

    def fetch(self, file: RemoteFile, directory: Path, progress: Progress) -> Path:
        """Download one file into ``directory``, going on where it was interrupted; return its path.

        Raises:
            CheckpointError: if it is not what the hub says it is, or the hub says no.
            OSError: if it cannot be written.
        """
        from huggingface_hub import hf_hub_download

        with (
            one_line_errors(self.repo_id, self.commit),
            no_bars_but_ours(),
            _watched(directory, f"fetching {file.name}", file.nbytes, progress),
        ):
            path = Path(
                hf_hub_download(
                    self.repo_id,
                    file.name,
                    revision=self.commit,
                    token=self.token,
                    local_dir=directory,
                )
            )
        _check(path, file, progress)
        return path


def look_at(repo_id: str, commit: str, token: str | None) -> RemoteCheckpoint:
    """Return the tensors of a repository. Only headers are read.

    Raises:
        CheckpointError: if it has no safetensors, or the hub says no.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with one_line_errors(repo_id, commit):
        info = api.model_info(repo_id, revision=commit, files_metadata=True)
        patterns, _ = WEIGHTS
        found = [
            RemoteFile(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else None)
            for entry in sorted(info.siblings or (), key=lambda entry: entry.rfilename)
            if any(fnmatch(entry.rfilename, pattern) for pattern in patterns)
            and not any(fnmatch(entry.rfilename, pattern) for pattern in IGNORED)
        ]
        if not found:
            raise CheckpointError(f"{repo_id} has no safetensors on the hub, which can be streamed")
        tensors: dict[str, TensorInfo] = {}
        for number, file in enumerate(found):
            header = api.parse_safetensors_file_metadata(repo_id, file.name, revision=commit)
            for name, entry in header.tensors.items():
                begin, end = entry.data_offsets
                shape = tuple(entry.shape)
                tensors[name] = TensorInfo(str(entry.dtype), shape, number, begin, end - begin)
    return RemoteCheckpoint(repo_id, commit, token, tuple(found), tensors)


def _check(path: Path, file: RemoteFile, progress: Progress) -> None:
    found = path.stat().st_size
    if found != file.nbytes:
        path.unlink()
        raise CheckpointError(
            f"{file.name} has {found} bytes, the hub says {file.nbytes}: try again"
        )
    if file.sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as content, progress.task(f"checking {file.name}", found) as task:
        while piece := content.read(_PIECE):
            digest.update(piece)
            task.advance(len(piece))
    if digest.hexdigest() != file.sha256:
        path.unlink()
        raise CheckpointError(f"{file.name} arrived damaged (its sha256 differs): try again")


@contextmanager
def _watched(directory: Path, label: str, nbytes: int, progress: Progress) -> Iterator[None]:
    """Show how a file grows; the hub's client only counts for its own bars."""
    done = threading.Event()
    parts = directory / ".cache" / "huggingface" / "download"
    with progress.task(label, nbytes) as task:

        def watch() -> None:
            while not done.wait(_POLL_S):
                sizes = [path.stat().st_size for path in parts.glob("*.incomplete")]
                task.update(min(sum(sizes), nbytes))

        thread = threading.Thread(target=watch, name="airllm-download-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
