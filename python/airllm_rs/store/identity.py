"""What a store was made of, so that it is never taken for another checkpoint's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# Changes when the encoder makes other bytes of the same weights.
ENCODER_VERSION = 1


@dataclass(frozen=True)
class SourceIdentity:
    """A checkpoint, told apart from every other and from itself before a change."""

    name: str
    """A repository of the hub, or a path: for people."""
    commit: str | None
    """Of the hub."""
    files: tuple[tuple[str, int, int], ...] = field(repr=False)
    """Name, size, time of change in ns (0 where the commit says it)."""

    @property
    def fingerprint(self) -> str:
        """What changes whenever the checkpoint does; where it lies does not count."""
        # the hub's commits fix the contents, wherever and whenever they are downloaded
        place = f"{self.name}@{self.commit}" if self.commit else ""
        content = json.dumps([place, sorted(self.files)])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def as_json(self) -> dict[str, object]:
        """Return what the manifest says about the source."""
        files = [{"name": name, "nbytes": nbytes} for name, nbytes, _ in self.files]
        return {
            "name": self.name,
            "commit": self.commit,
            "fingerprint": self.fingerprint,
            "encoder_version": ENCODER_VERSION,
            "files": files,
        }


def identify(directory: Path, files: Sequence[str]) -> SourceIdentity:
    """Return what a checkpoint in ``directory``, with weights in ``files``, is."""
    found = hub_snapshot(directory)
    entries = []
    for file in files:
        path = Path(file)
        stat = path.stat()
        entries.append((path.name, stat.st_size, 0 if found else stat.st_mtime_ns))
    if found is not None:
        repo_id, commit = found
        return SourceIdentity(repo_id, commit, tuple(entries))
    return SourceIdentity(str(directory.resolve()), None, tuple(entries))


def hub_snapshot(directory: Path) -> tuple[str, str] | None:
    """Return the repository and the commit whose snapshot in the hub's cache this is."""
    directory = directory.absolute()
    home = directory.parent.parent
    if directory.parent.name != "snapshots" or not home.name.startswith("models--"):
        return None
    return home.name.removeprefix("models--").replace("--", "/"), directory.name
