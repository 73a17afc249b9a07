"""The headers of GGUF files through the ``gguf`` package, held within bounds.

The only module that imports the package, which is optional.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np

from airllm_rs.checkpoint.gguf.metadata import Metadata
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Floats = np.ndarray[Any, np.dtype[np.float32]]

# A vocabulary of 256 thousand tokens, with merges, scores and types, takes two million.
_MAX_VALUES = 1 << 22

# Models have tens of keys and hundreds of tensors, thousands where each expert has its own. The
# package keeps a kilobyte or so for each.
_MAX_KEYS = _MAX_TENSORS = 1 << 16

# Lists longer than one number per layer are the vocabulary's.
_MAX_LISTED = 1 << 12

# RoPE factors are half a head.
_MAX_VECTOR_BYTES = 1 << 16

_LENGTH = Struct("=Q")

_HEAD = Struct("=4sIQQ")
"""Magic, version, counts of tensors and of keys."""


class StoredTensor(NamedTuple):
    """A tensor of the file."""

    name: str
    kind: str
    """As ggml names it, such as ``Q4_K``."""
    shape: tuple[int, ...]
    """Rows first, as Hugging Face has it."""
    file: int
    """Which part of the model it lies in."""
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Source:
    """A model whose headers are parsed and checked."""

    path: Path
    """Of its first part."""
    metadata: Mapping[str, object] = field(repr=False)
    """Numbers, strings and short lists."""
    tensors: Mapping[str, StoredTensor] = field(repr=False)


def read_source(parts: Sequence[Path]) -> Source:
    """Return what the headers of a model's files say; every tensor lies within its file.

    Raises:
        CheckpointError: if a file is no GGUF file, is truncated or corrupt, or is no such part.
        UnsupportedModelError: if one is of the other byte order.
        OSError: if one cannot be read.
    """
    first: Mapping[str, object] = {}
    tensors: dict[str, StoredTensor] = {}
    for number, path in enumerate(parts):
        with _one_line_errors(path), np.errstate(all="ignore"):
            _check_counts(path)
            reader = _BoundedReader(path)
            metadata = {name: _value(entry) for name, entry in reader.fields.items()}
            found = {tensor.name: _stored(reader, tensor, number) for tensor in reader.tensors}
        _require_part(path, metadata, number, len(parts))
        if twice := tensors.keys() & found.keys():
            raise CheckpointError(f"{path} has {min(twice)}, which another part has too")
        tensors |= found
        first = first or metadata
    return Source(parts[0], first, tensors)


def read_floats(parts: Sequence[Path], tensor: StoredTensor) -> Floats:
    """Return a small vector, which has to be ``F32``.

    It is read, not mapped: a file that shrinks meanwhile is an error instead of a signal.
    """
    path = parts[tensor.file]
    if tensor.kind != "F32" or len(tensor.shape) != 1 or tensor.nbytes > _MAX_VECTOR_BYTES:
        raise CheckpointError(
            f"{path}: {tensor.name} is {tensor.kind} of shape {list(tensor.shape)}, "
            "expected a small vector of F32"
        )
    with path.open("rb") as file:
        file.seek(tensor.offset)
        raw = file.read(tensor.nbytes)
    if len(raw) != tensor.nbytes:
        raise CheckpointError(f"{path} ends within {tensor.name}")
    return np.frombuffer(raw, np.float32)


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

    def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> Any:  # noqa: ANN401 - the package's signature
        """Step over long lists, of which a view of each entry would be made."""
        if raw_type == gguf.GGUFValueType.ARRAY:
            kind = gguf.GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            if count > _MAX_LISTED and kind != gguf.GGUFValueType.ARRAY:
                nbytes = 12 + self._list_nbytes(orig_offs + 12, kind, count)
                return (
                    nbytes,
                    [self._get(orig_offs, np.uint8, nbytes)],
                    [],
                    [gguf.GGUFValueType.ARRAY, kind],
                )
        return super()._get_field_parts(orig_offs, raw_type)

    def _list_nbytes(self, offset: int, kind: gguf.GGUFValueType, count: int) -> int:
        item = self.gguf_scalar_to_np.get(kind)
        if item is not None:
            return count * np.dtype(item).itemsize
        assert self._bytes is not None
        content, end = self._bytes.data, offset
        for _ in range(count):
            if end + _LENGTH.size > len(content):
                raise ValueError(f"it ends within a list of {count} strings")
            end += _LENGTH.size + _LENGTH.unpack_from(content, end)[0]
        return end - offset


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
    if not entry.data:
        return None  # a list that was stepped over
    value: object = entry.contents()
    return value


def _stored(reader: gguf.GGUFReader, tensor: gguf.ReaderTensor, file: int) -> StoredTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape))
    offset, nbytes = int(tensor.data_offset), int(tensor.n_bytes)
    if offset < reader.data_offset or tensor.data.nbytes != nbytes or 0 in shape or not shape:
        raise ValueError(f"{tensor.name} has shape {list(shape)} at byte {offset}")
    return StoredTensor(tensor.name, tensor.tensor_type.name, shape, file, offset, nbytes)


def _require_part(path: Path, metadata: Mapping[str, object], number: int, parts: int) -> None:
    """Refuse a part of another model, or one whose name does not say that it is one."""
    keys = Metadata(path, metadata, "split.")
    count, own = keys.count("count") or 1, keys.token_id("no") or 0
    if parts == 1 < count:
        raise CheckpointError(
            f"{path} is part {own + 1} of {count}, and its name does not end in "
            f"-{own + 1:05d}-of-{count:05d}.gguf, by which the others are found"
        )
    if (count, own) not in ((parts, number), (1, 0)):
        raise CheckpointError(
            f"{path} is part {own + 1} of {count}, expected part {number + 1} of {parts}"
        )
