"""Ranges of files on the hub: what a header takes is fetched, and nothing else."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from airllm_rs.errors import CheckpointError


@dataclass
class RangeReader:
    """Reads parts of the files of a repository, and counts what it asked for."""

    repo_id: str
    commit: str
    token: str | None = field(repr=False)
    requests: int = 0
    nbytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of a file, fewer where it ends before.

        Raises:
            CheckpointError: if the hub sends something else.
            HfHubHTTPError: if the hub says no.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        url = hf_hub_url(self.repo_id, name, revision=self.commit)
        headers = {**build_hf_headers(token=self.token), "Range": f"bytes={start}-{stop - 1}"}
        with get_session().stream("GET", url, headers=headers, timeout=60) as response:
            hf_raise_for_status(response)
            if response.status_code != 206:
                # a whole file would follow, of gigabytes
                raise CheckpointError(
                    f"{self.repo_id}: the hub does not send parts of {name}: download it first"
                )
            content: bytes = response.read()
        if len(content) > stop - start:
            raise CheckpointError(f"{self.repo_id}: the hub sent more of {name} than was asked for")
        with self._lock:
            self.requests += 1
            self.nbytes += len(content)
        return content
