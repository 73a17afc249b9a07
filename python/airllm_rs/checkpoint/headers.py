"""A repository of the hub opened by its headers: no weight is fetched, and no file is kept."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.header import header_extent
from airllm_rs.checkpoint.hub import IGNORED, WEIGHTS, no_bars_but_ours, one_line_errors
from airllm_rs.checkpoint.model_files import read_json
from airllm_rs.checkpoint.ranges import RangeReader
from airllm_rs.checkpoint.stored import TensorInfo
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from airllm_rs.checkpoint.gguf.tensors import GgufTensors
    from airllm_rs.checkpoint.tensor_table import TensorTable

CONFIGURATION = ["config.json", "generation_config.json", "*.safetensors.index.json"]

_THREADS = 8
# Of most files the whole header, in one request.
_FIRST = 128 << 10
_FIRST_OF_GGUF = 2 << 20
_MOST_OF_GGUF = 256 << 20
# As the parser has it, which says so better.
_MOST = 100 << 20
_MOST_FACTORS = 1 << 16
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class RemoteTable:
    """A `TensorTable` of files on the hub; offsets are those in the files."""

    files: list[str]
    """``repository/name``."""
    metadata: dict[str, str]
    tensors: Mapping[str, TensorInfo] = field(repr=False)

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self.tensors)

    def tensor(self, name: str) -> TensorInfo:
        """Return what a tensor is and where it lies."""
        return self.tensors[name]

    def __contains__(self, name: str, /) -> bool:
        return name in self.tensors


@dataclass(frozen=True)
class Listing:
    """What a repository has at one commit."""

    repo_id: str
    revision: str | None
    """As it was asked for, which the hub's cache remembers."""
    commit: str
    token: str | None = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)
    """The bytes of each file by name."""

    @property
    def safetensors(self) -> list[str]:
        """The names of the files with the weights."""
        (pattern,), _ = WEIGHTS
        return sorted(
            name
            for name in self.sizes
            if fnmatch(name, pattern) and not any(fnmatch(name, other) for other in IGNORED)
        )

    def reader(self) -> RangeReader:
        """Return what reads parts of the files."""
        return RangeReader(self.repo_id, self.commit, self.token)

    def cached(self, names: list[str] | tuple[str, ...], cache_dir: Path | None) -> Path | None:
        """Return where the first of ``names`` is if all are in the hub's cache, None otherwise."""
        from huggingface_hub import try_to_load_from_cache

        found = [
            try_to_load_from_cache(self.repo_id, name, cache_dir=cache_dir, revision=self.commit)
            for name in names
        ]
        paths = [Path(path) for path in found if isinstance(path, str)]
        return paths[0] if paths and len(paths) == len(names) else None


def list_repository(repo_id: str, revision: str | None, token: str | None) -> Listing:
    """Return what a repository has.

    Raises:
        CheckpointError: if the hub says no.
    """
    from huggingface_hub import HfApi

    with one_line_errors(repo_id, revision):
        info = HfApi(token=token).model_info(repo_id, revision=revision, files_metadata=True)
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
    return Listing(repo_id, revision, info.sha or revision or "main", token, sizes)


def configuration(listing: Listing, cache_dir: Path | None) -> Path:
    """Return the directory of the snapshot, with what says what the model is."""
    from huggingface_hub import snapshot_download

    with one_line_errors(listing.repo_id, listing.commit), no_bars_but_ours():
        return Path(
            snapshot_download(
                listing.repo_id,
                revision=listing.revision,
                cache_dir=cache_dir,
                token=listing.token,
                allow_patterns=CONFIGURATION,
                ignore_patterns=IGNORED,
            )
        )


class Headers:
    """Files that have the headers of those on the hub, and holes in place of weights."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.reader = listing.reader()
        self._small: dict[tuple[str, str, tuple[int, ...]], bytes] = {}

    def safetensors(
        self, snapshot: Path, open_weights: Callable[[Path], TensorTable]
    ) -> RemoteTable:
        """Return the tensors, checked as those of files that are here.

        Args:
            snapshot: Has the configuration, and the index.
            open_weights: Opens a directory.
        """
        names = self.listing.safetensors
        with TemporaryDirectory(prefix="airllm_rs.headers.") as temporary:
            directory = Path(temporary)
            for index in snapshot.glob("*.safetensors.index.json"):
                shutil.copyfile(index, directory / index.name)
            repo_id = self.listing.repo_id
            with one_line_errors(repo_id, self.listing.commit), _named(directory, repo_id):
                self._in_parallel(lambda name: self._write_safetensors(directory, name), names)
                return self._remote(open_weights(directory))

    def gguf(
        self, names: tuple[str, ...], open_gguf: Callable[[Path, Path], tuple[Path, GgufTensors]]
    ) -> tuple[dict[str, object], dict[str, object], GgufTensors]:
        """Return configuration, generation configuration and tensors of a model.

        Args:
            names: Of its files, in order.
            open_gguf: Told the first file, and a directory for what is made of it.
        """
        repo_id = self.listing.repo_id
        with TemporaryDirectory(prefix="airllm_rs.headers.") as temporary:
            directory = Path(temporary)
            with one_line_errors(repo_id, self.listing.commit), _named(directory, repo_id):
                self._in_parallel(lambda name: self._write_gguf(directory, name), names)
                made, tensors = open_gguf(directory / Path(names[0]).name, directory / "made")
                config = read_json(made / "config.json")
                generation = read_json(made / "generation_config.json")
        return config, generation, replace(tensors, files=[f"{repo_id}/{name}" for name in names])

    def content(self, name: str, info: TensorInfo) -> bytes:
        """Return a small tensor; what is equal but for numbers in its name is fetched once.

        Tables and descriptions that packed weights come with are the same in every layer, or of
        the same size: what is planned does not hang on the rest.
        """
        key = _NUMBER.sub("N", name), info.dtype, info.shape
        if key not in self._small:
            file = self.listing.safetensors[info.file]
            with one_line_errors(self.listing.repo_id, self.listing.commit):
                self._small[key] = self.reader.read(file, info.offset, info.offset + info.nbytes)
        return self._small[key]

    def _in_parallel(self, run: Callable[[str], None], names: list[str] | tuple[str, ...]) -> None:
        with ThreadPoolExecutor(_THREADS, "airllm-headers") as pool:
            for _ in pool.map(run, names):
                pass

    def _write_safetensors(self, directory: Path, name: str) -> None:
        total = self.listing.sizes[name]
        content = self.reader.read(name, 0, min(_FIRST, total)) if total else b""
        needed = 8 + int.from_bytes(content[:8], "little")
        if len(content) < needed <= min(total, _MOST):
            content += self.reader.read(name, len(content), needed)
        _write(directory / name, total, {0: content[:needed]})

    def _write_gguf(self, directory: Path, name: str) -> None:
        total = self.listing.sizes[name]
        content, wanted = b"", _FIRST_OF_GGUF
        while True:
            wanted = min(wanted, total)
            if wanted > len(content):
                content += self.reader.read(name, len(content), wanted)
            try:
                extent = header_extent(content)
            except CheckpointError as error:
                raise CheckpointError(f"{self.listing.repo_id}: {name}: {error}") from error
            if extent is not None:
                break
            if wanted in (total, _MOST_OF_GGUF):
                raise CheckpointError(
                    f"{self.listing.repo_id}: {name} ends within its header ({wanted} bytes)"
                )
            wanted = min(2 * wanted, _MOST_OF_GGUF)
        parts = {0: content[: extent.header]}
        start, stop = extent.factors or (0, 0)
        if start < stop <= min(total, start + _MOST_FACTORS):
            parts[start] = self.reader.read(name, start, stop)
        _write(directory / Path(name).name, total, parts)

    def _remote(self, core: TensorTable) -> RemoteTable:
        # the parser may list files in another order than their names'
        order = {name: number for number, name in enumerate(self.listing.safetensors)}
        numbers = [order[Path(file).name] for file in core.files]
        tensors = {}
        for name in core.names():
            info = TensorInfo(*core.tensor(name))
            tensors[name] = info._replace(file=numbers[info.file])
        files = [f"{self.listing.repo_id}/{name}" for name in self.listing.safetensors]
        return RemoteTable(files, core.metadata, tensors)


@contextmanager
def _named(directory: Path, repo_id: str) -> Iterator[None]:
    """Name the repository in errors, and not the directory that stands for it."""
    try:
        yield
    except (CheckpointError, UnsupportedModelError) as error:
        raise type(error)(str(error).replace(str(directory), repo_id)) from error


def _write(path: Path, total: int, parts: Mapping[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(total)
        for offset, content in parts.items():
            file.seek(offset)
            file.write(content)
