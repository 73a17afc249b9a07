"""A GGUF file through the ``gguf`` package, held within bounds: metadata, tensors, their floats.

The only module that imports the package, which is optional.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np

from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

Floats = np.ndarray[Any, np.dtype[np.float32]]

# A vocabulary of 256 thousand tokens, with merges, scores and types, takes two million.
_MAX_VALUES = 1 << 22

# Models have tens of keys and hundreds of tensors, thousands where each expert has its own. The
# package keeps a kilobyte or so for each.
_MAX_KEYS = _MAX_TENSORS = 1 << 16

# Lists longer than one number per layer are the vocabulary's.
_MAX_LISTED = 1 << 12

_HEAD = Struct("=4sIQQ")
"""Magic, version, counts of tensors and of keys."""


class StoredTensor(NamedTuple):
    """A tensor of the file."""

    name: str
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    """Rows first, as Hugging Face has it."""
    offset: int
    nbytes: int

    @property
    def row_nbytes(self) -> int:
        """The bytes of one row of a matrix."""
        return self.nbytes // self.shape[0]


@dataclass(frozen=True)
class Source:
    """A GGUF file whose headers are parsed and checked."""

    path: Path
    metadata: Mapping[str, object] = field(repr=False)
    """Numbers, strings and short lists."""
    tensors: Mapping[str, StoredTensor] = field(repr=False)


def read_source(path: Path) -> Source:
    """Return what the headers of a GGUF file say; every tensor lies within the file.

    Raises:
        CheckpointError: if the file is no GGUF file, or is truncated or corrupt.
        UnsupportedModelError: if it is of the other byte order, or has a kind of tensor that cannot
            be dequantised.
        OSError: if it cannot be read.
    """
    with _one_line_errors(path), np.errstate(all="ignore"):
        _check_counts(path)
        reader = _BoundedReader(path)
        metadata = {name: _value(entry) for name, entry in reader.fields.items()}
        tensors = {tensor.name: _stored(reader, tensor) for tensor in reader.tensors}
    for kind in {tensor.kind for tensor in tensors.values()}:
        _require_known(path, kind)
    return Source(path, metadata, tensors)


def read_floats(file: BinaryIO, tensor: StoredTensor, start: int = 0, stop: int = 1) -> Floats:
    """Return rows of a matrix, or all of a vector, as the package dequantises them.

    They are read, not mapped: a file that shrinks meanwhile is an error instead of a signal.
    """
    is_matrix = len(tensor.shape) > 1
    row_nbytes = tensor.row_nbytes if is_matrix else tensor.nbytes
    nbytes = (stop - start) * row_nbytes
    file.seek(tensor.offset + start * row_nbytes)
    raw = file.read(nbytes)
    if len(raw) != nbytes:
        raise CheckpointError(f"{file.name} ends within {tensor.name}")
    # one long row: the package goes through rows by sixteen, and all kinds are made of blocks
    with np.errstate(all="ignore"):  # scales may be infinite
        flat = gguf.dequantize(np.frombuffer(raw, np.uint8).reshape(1, -1), tensor.kind).ravel()
    floats: Floats = flat.reshape(stop - start, -1) if is_matrix else flat
    return floats


class _BoundedReader(gguf.GGUFReader):
    """Reads nothing beyond the end, where the package's own reader finds empty arrays."""

    def __init__(self, path: Path) -> None:
        self._left = _MAX_VALUES
        self._bytes: np.ndarray[Any, np.dtype[np.uint8]] | None = None
        super().__init__(path)

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:  # noqa: ANN401 - the package's signature
        if self._bytes is None:
            # a million slices of the map itself take seconds and hundreds of megabytes
            self._bytes = np.asarray(self.data)
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self._bytes):
            raise ValueError(f"it ends after {len(self._bytes)} bytes, expected {end} or more")
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it has more than {_MAX_VALUES} values of metadata")
        found = self._bytes[offset:end].view(dtype)
        return found.view(found.dtype.newbyteorder(override_order or self.byte_order))


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} is no whole GGUF file: {first}") from error


def _check_counts(path: Path) -> None:
    """Refuse what the package's reader would fill memory with, or has no use for."""
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise ValueError(f"it ends after {len(head)} bytes, expected {_HEAD.size} or more")
    magic, version, tensors, keys = _HEAD.unpack(head)
    if magic != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if version & 0xFFFF == 0:
        raise UnsupportedModelError(f"{path} is of the other byte order than this machine")
    for count, most, what in ((keys, _MAX_KEYS, "keys"), (tensors, _MAX_TENSORS, "tensors")):
        if count > most:
            raise ValueError(f"it claims {count} {what}, expected {most} or fewer")


def _value(entry: gguf.ReaderField) -> object:
    if len(entry.data) > _MAX_LISTED:
        return None
    value: object = entry.contents()
    return value


def _stored(reader: gguf.GGUFReader, tensor: gguf.ReaderTensor) -> StoredTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape))
    offset, nbytes = int(tensor.data_offset), int(tensor.n_bytes)
    if offset < reader.data_offset or tensor.data.nbytes != nbytes or 0 in shape or not shape:
        raise ValueError(f"{tensor.name} has shape {list(shape)} at byte {offset}")
    return StoredTensor(tensor.name, tensor.tensor_type, shape, offset, nbytes)


def _require_known(path: Path, kind: gguf.GGMLQuantizationType) -> None:
    _, block_nbytes = gguf.GGML_QUANT_SIZES[kind]
    try:  # a block of zeros
        gguf.dequantize(np.zeros((1, block_nbytes), np.uint8), kind)
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"{path} has tensors of kind {kind.name}, which the gguf package cannot dequantise"
        ) from error
