"""The files of a store: which tensors lie in which, in which order, made of what."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.stored import whole_name
from airllm_rs.families.family import HEAD, Layer, TensorSpec
from airllm_rs.store.schemes import describe, encoded_bytes, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Protocol

    from airllm_rs.checkpoint.stored import StoredWeight, TensorInfo
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family
    from airllm_rs.store.identity import SourceIdentity

    class NamedTensors(Protocol):
        """The tensors of a checkpoint."""

        def names(self) -> list[str]:
            """Return the names of all tensors."""

        def tensor(self, name: str) -> TensorInfo:
            """Return what a tensor is and where it lies."""

        @property
        def packed(self) -> Mapping[str, StoredWeight]:
            """Weights that are no plain tensors, by name."""


FORMAT_VERSION = 1
OTHERS = "others"
"""The layer of tensors that the model has no use for and that are kept all the same."""

# From here on a tensor is read for itself; smaller ones come with others.
UNIT_BYTES = 64 << 10
# What alignment may cost per tensor, and what a header takes.
_PAD_BYTES = 4096
_HEADER_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class TensorJob:
    """A tensor of a store."""

    name: str
    info: TensorInfo
    """The source."""
    scheme: str | None

    @property
    def nbytes(self) -> int:
        """What it takes in the store, alignment left out."""
        return encoded_bytes(self.info.shape, self.scheme) if self.scheme else self.info.nbytes

    @property
    def row_bytes(self) -> int:
        """The bytes of the source that have to be in memory together."""
        return self.info.nbytes // self.info.shape[0] if self.scheme else 1


@dataclass(frozen=True)
class FileJob:
    """A file of a store."""

    name: str
    layer: str
    directory: int
    tensors: tuple[TensorJob, ...] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """An upper bound of its size."""
        return _HEADER_BYTES + sum(
            tensor.nbytes + (4 if tensor.scheme else 1) * _PAD_BYTES for tensor in self.tensors
        )

    @property
    def source_bytes(self) -> int:
        """The bytes that are read to make it."""
        return sum(tensor.info.nbytes for tensor in self.tensors)

    @property
    def sources(self) -> set[int]:
        """The files that are read to make it."""
        return {tensor.info.file for tensor in self.tensors}

    def as_core(
        self, metadata: Mapping[str, str], sources: Mapping[int, int]
    ) -> tuple[str, str, int, dict[str, str], list[tuple[object, ...]]]:
        """Return it as the extension takes it; ``sources`` numbers the files that are given."""
        tensors: list[tuple[object, ...]] = [
            (
                tensor.name,
                tensor.info.dtype,
                list(tensor.info.shape),
                (sources[tensor.info.file], tensor.info.offset, tensor.info.nbytes),
                tensor.scheme,
                tensor.info.nbytes >= UNIT_BYTES,
            )
            for tensor in self.tensors
        ]
        return self.name, self.layer, self.directory, dict(metadata), tensors


def plan_store(
    config: ModelConfig,
    family: Family,
    files: NamedTensors,
    compression: str | None,
    directories: int = 1,
) -> tuple[FileJob, ...]:
    """Return the files of a store, in the order in which they are used.

    Args:
        config: The model's configuration.
        family: Its family.
        files: The checkpoint.
        compression: The scheme, None for the source's dtypes.
        directories: How many the units of each layer are spread over, so that several disks read
            at once.
    """
    present = set(files.names())
    jobs: list[FileJob] = []
    used: set[str] = set()
    for layer in family.layers(config):
        tensors = list(_tensors(layer, files, present, compression, config))
        used.update(whole_name(spec.name) for spec in layer.tensors)
        used.update(tensor.name for tensor in tensors)
        jobs += _stripe(layer.name, tensors, directories)
    rest = [
        TensorJob(name, files.tensor(name), None)
        for name in files.names()
        if name not in used and not family.is_ignorable(name, config)
    ]
    return (*jobs, *_stripe(OTHERS, rest, 1))


def has_own_head(jobs: Sequence[FileJob]) -> bool:
    """Tell whether the store of a tied model has a head beside its embedding table."""
    return any(tensor.name == HEAD for job in jobs for tensor in job.tensors)


def metadata_of(
    identity: SourceIdentity, compression: str | None, dtype: str, encoder_version: int
) -> dict[str, str]:
    """Return what each file says beside its tensors."""
    return {
        "format": "pt",
        "airllm_rs.format_version": str(FORMAT_VERSION),
        "airllm_rs.scheme": json.dumps(describe(compression), sort_keys=True),
        "airllm_rs.source": identity.fingerprint,
        "airllm_rs.source_dtype": dtype,
        "airllm_rs.encoder_version": str(encoder_version),
    }


def _tensors(
    layer: Layer,
    files: NamedTensors,
    present: set[str],
    compression: str | None,
    config: ModelConfig,
) -> Iterator[TensorJob]:
    is_table = layer.kind == "head" and config.tie_word_embeddings
    for spec in _whole(layer):
        packed = files.packed.get(spec.name)
        if packed is not None:  # copied as it is; `make_store` encodes nothing that is encoded
            if not is_table:
                names = (*(part.tensor for part in packed.parts), *packed.aside)
                yield from (TensorJob(name, files.tensor(name), None) for name in names)
            continue
        if spec.name not in present:
            continue
        info = files.tensor(spec.name)
        name = HEAD if is_table else spec.name
        scheme = scheme_of(layer, name, info, compression)
        if is_table and scheme is None:
            continue  # the table itself
        yield TensorJob(name, info, scheme)


def _whole(layer: Layer) -> Iterator[TensorSpec]:
    """Yield the tensors of a layer, one that holds all experts once."""
    seen: set[str] = set()
    for spec in layer.tensors:
        name = whole_name(spec.name)
        if name not in seen:
            seen.add(name)
            yield spec if name == spec.name else replace(spec, name=name)


def _stripe(layer: str, tensors: Sequence[TensorJob], directories: int) -> Iterator[FileJob]:
    """Deal large tensors out, each to the directory that has least; small ones go to the first."""
    large = [tensor for tensor in tensors if tensor.info.nbytes >= UNIT_BYTES]
    hands: list[list[TensorJob]] = [[] for _ in range(directories)]
    for tensor in large:
        min(hands, key=lambda hand: sum(held.nbytes for held in hand)).append(tensor)
    hands[0] += [tensor for tensor in tensors if tensor.info.nbytes < UNIT_BYTES]
    for directory, hand in enumerate(hands):
        if hand:
            yield FileJob(f"{layer}.safetensors", layer, directory, tuple(hand))
