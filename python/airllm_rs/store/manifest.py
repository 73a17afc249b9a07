"""The manifest of a store, as Python reads and writes it; the extension checks every one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from airllm_rs import _core
from airllm_rs.checkpoint.durable import sync_directory, write_json
from airllm_rs.checkpoint.safetensors_files import MANIFEST, STRIPE
from airllm_rs.checkpoint.writing import INDEX
from airllm_rs.errors import CheckpointError
from airllm_rs.store.jobs import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAD = "__pad__."
HEAD_LAYER = "lm_head"


class StoredFile(NamedTuple):
    """A file of a store, as the extension reports it."""

    name: str
    layer: str
    directory: int
    nbytes: int
    crc32c: list[int]
    not_finite: list[str]


@dataclass(frozen=True)
class Store:
    """A store that is complete."""

    directory: Path
    directories: tuple[Path, ...]
    """All of them; the first is that of the manifest."""
    id: str
    scheme: str | None
    source: Mapping[str, object] = field(repr=False)
    files: tuple[StoredFile, ...] = field(repr=False)
    companions: tuple[str, ...] = field(repr=False)
    """The files beside the weights, in the first directory."""

    @property
    def fingerprint(self) -> str:
        """What its source was."""
        return str(self.source.get("fingerprint", ""))

    @property
    def nbytes(self) -> int:
        """The bytes of its weights."""
        return sum(file.nbytes for file in self.files)

    @property
    def paths(self) -> list[Path]:
        """The files with weights."""
        return [self.directories[file.directory] / file.name for file in self.files]


@dataclass(frozen=True, slots=True)
class Stripe:
    """What a directory of a striped store, other than the first, says about itself."""

    id: str
    """Of the store."""
    store: Path
    """The directory of its manifest."""

    def is_used(self, directory: Path) -> bool:
        """Tell whether the store is there, and has ``directory`` among its own."""
        try:
            store = read_store(self.store)
        except CheckpointError:
            return True  # as far as one can tell
        except OSError:
            return False
        others = store.directories[1:] if store is not None and store.id == self.id else ()
        return directory.resolve() in [other.resolve() for other in others]


def stripe_of(directory: Path) -> Stripe | None:
    """Return which store a directory holds a part of; None if it does not say."""
    try:
        known = json.loads((directory / STRIPE).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict):
        return None
    store_id, store = known.get("id"), known.get("store")
    if not isinstance(store_id, str) or not isinstance(store, str):
        return None
    return Stripe(store_id, Path(store))


def read_store(directory: Path) -> Store | None:
    """Return the store in a directory, None if there is none that is complete.

    Raises:
        CheckpointError: if the manifest is none, leads elsewhere, or is of another format version.
        OSError: if it cannot be read.
    """
    text = _core.read_manifest(directory)
    if text is None:
        return None
    found = json.loads(text)
    source = found["source"]
    others = (Path(path) for path in found["directories"][1:])
    return Store(
        directory=directory,
        directories=(directory, *others),
        id=found["id"],
        scheme=found["scheme"],
        source=source if isinstance(source, dict) else {},
        files=tuple(
            StoredFile(
                file["name"],
                file["layer"],
                file["directory"],
                file["nbytes"],
                file["crc32c"],
                file["not_finite"],
            )
            for file in found["files"]
        ),
        companions=tuple(found["companions"]),
    )


def has_copied_head(directory: Path) -> bool:
    """Tell whether a directory has a store whose head was made of the embedding table.

    Raises:
        CheckpointError: if its manifest is none.
        OSError: if it cannot be read.
    """
    store = read_store(directory)
    return store is not None and store.source.get("tied") is True


def commit(
    directories: Sequence[Path],
    scheme: str | None,
    source: Mapping[str, object],
    files: Sequence[StoredFile],
    companions: Sequence[str],
) -> None:
    """Make a store of files that are finished: after this it is there, before it was not."""
    own, *others = directories
    content = json.dumps([source, scheme, [str(path) for path in others]], sort_keys=True)
    store_id = hashlib.sha256(content.encode()).hexdigest()[:32]
    for other in others:
        write_json(other / STRIPE, {"id": store_id, "store": str(own)})
        sync_directory(other)
    if not others:
        write_json(own / INDEX, _index(own, files), indent=2)
    manifest = {
        "format_version": FORMAT_VERSION,
        "id": store_id,
        "scheme": scheme,
        "source": source,
        "directories": [".", *(str(path) for path in others)],
        "companions": list(companions),
        "files": [file._asdict() for file in files],
    }
    write_json(own / MANIFEST, manifest)
    sync_directory(own)


def _index(directory: Path, files: Sequence[StoredFile]) -> dict[str, object]:
    """Return what other readers find the tensors by."""
    weight_map: dict[str, str] = {}
    total = 0
    for file in files:
        opened = _core.Checkpoint.open(directory / file.name)
        for name in opened.names():
            if not name.startswith(PAD):
                weight_map[name] = file.name
                total += opened.tensor(name)[4]
    return {"metadata": {"total_size": total}, "weight_map": weight_map}
