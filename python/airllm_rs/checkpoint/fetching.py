"""A hub id: its files downloaded, or looked at where they are."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint import hub
from airllm_rs.checkpoint.gguf import open_gguf
from airllm_rs.checkpoint.headers import Headers, Listing, configuration, list_repository
from airllm_rs.checkpoint.hub_gguf import choose
from airllm_rs.checkpoint.model_files import ModelFiles, assemble, read_json
from airllm_rs.checkpoint.packed import packed_weights
from airllm_rs.checkpoint.safetensors_files import open_safetensors
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airllm_rs.checkpoint.tensor_table import TensorTable
    from airllm_rs.stats.progress import Progress

    Check = Callable[[Mapping[str, object]], object] | None
    Prepared = Callable[[Path], Path | None] | None

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubRequest:
    """What is asked for of the hub."""

    repo_id: str
    quantization: str | None
    """Of a GGUF file; None for safetensors, or the only GGUF file that there is."""
    revision: str | None = None
    cache_dir: Path | None = None
    local_files_only: bool = False
    token: str | None = field(default=None, repr=False)

    @property
    def is_offline(self) -> bool:
        """Whether only what is in the cache may be used."""
        from huggingface_hub import constants

        return self.local_files_only or constants.HF_HUB_OFFLINE


def fetch(request: HubRequest, check: Check, prepared: Prepared, progress: Progress) -> Path:
    """Download what is not here; return the snapshot's directory, or the first GGUF file.

    Raises:
        CheckpointError: in one line, whatever the hub says in many.
        NotEnoughSpaceException: if the files would not fit on the disk.
    """
    if request.quantization is not None:
        return _fetch_gguf(request, request.quantization, progress)
    return hub.download(
        request.repo_id,
        revision=request.revision,
        cache_dir=request.cache_dir,
        local_files_only=request.local_files_only,
        token=request.token,
        check=check,
        has_weights=None if prepared is None else lambda found: prepared(found) is not None,
        progress=progress,
    )


def look(request: HubRequest, check: Check, prepared: Prepared) -> ModelFiles | Path | None:
    """Return what headers tell of a repository whose weights are not here.

    Returns:
        The files, as far as headers tell; where they are, if they are here, or what was made of
        them is; None if the hub may not be asked, or does not answer.

    Raises:
        CheckpointError: if there is no such repository, or no header in it makes sense.
    """
    if request.is_offline:
        return None
    try:
        listing = list_repository(request.repo_id, request.revision, request.token)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - what networks raise has no common base
        log.info("the hub does not answer (%s): looking into its cache", error)
        return None
    if request.quantization is not None or not _has_safetensors(listing):
        return _look_at_gguf(request, listing, check)
    snapshot = configuration(listing, request.cache_dir)
    config = read_json(snapshot / "config.json", f"{request.repo_id} has no config.json on the hub")
    if check is not None:
        check(config)
    if prepared is not None and prepared(snapshot) is not None:
        return snapshot
    if listing.cached(listing.safetensors, request.cache_dir) is not None:
        return snapshot
    return _look_at_safetensors(listing, snapshot, config)


def _has_safetensors(listing: Listing) -> bool:
    if listing.safetensors:
        return True
    if any(name.endswith(".gguf") for name in listing.sizes):
        return False
    if any(name.startswith("pytorch_model") for name in listing.sizes):
        raise CheckpointError(
            f"{listing.repo_id} has pytorch_model.bin files, whose contents are not known before "
            "they are downloaded: load it once, or give a directory"
        )
    raise CheckpointError(f"{listing.repo_id} has neither safetensors nor GGUF files on the hub")


def _look_at_safetensors(listing: Listing, snapshot: Path, config: dict[str, object]) -> ModelFiles:
    headers = Headers(listing)

    def opened(directory: Path) -> TensorTable:
        found = open_safetensors(directory)
        if found is None:
            raise CheckpointError(f"{directory} has several safetensors, and no index of them")
        return found

    table = headers.safetensors(snapshot, opened)
    packed = packed_weights(table, config, headers.content)
    log.info(
        "%s: %d requests, %d bytes of headers", listing.repo_id, headers.reader.requests,
        headers.reader.nbytes,
    )  # fmt: skip
    sizes = tuple(listing.sizes[name] for name in listing.safetensors)
    return assemble(snapshot, config, table, packed, remote_sizes=sizes)


def _look_at_gguf(request: HubRequest, listing: Listing, check: Check) -> ModelFiles | Path:
    names = choose(listing.repo_id, request.quantization, listing.sizes)
    here = listing.cached(names, request.cache_dir)
    if here is not None:
        return here
    headers = Headers(listing)
    config, generation, tensors = headers.gguf(
        names, lambda path, directory: open_gguf(path, cache_dir=directory, check=check)
    )
    log.info(
        "%s: %d requests, %d bytes of headers", listing.repo_id, headers.reader.requests,
        headers.reader.nbytes,
    )  # fmt: skip
    return ModelFiles(
        path=Path(listing.repo_id, names[0]),
        config=config,
        generation_config=generation,
        core=tensors,
        packed=tensors.weights,
        remote_sizes=tuple(listing.sizes[name] for name in names),
    )


def _fetch_gguf(request: HubRequest, quantization: str, progress: Progress) -> Path:
    if request.is_offline:
        return hub.cached_gguf(request.repo_id, quantization, request.revision, request.cache_dir)
    listing = list_repository(request.repo_id, request.revision, request.token)
    names = choose(listing.repo_id, quantization, listing.sizes)
    return hub.download_files(
        listing.repo_id,
        names,
        revision=listing.revision,
        cache_dir=request.cache_dir,
        token=request.token,
        progress=progress,
    )
