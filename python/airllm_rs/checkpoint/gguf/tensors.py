"""The tensors of a GGUF model under the checkpoint's names, and the file that remembers them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.durable import write_json
from airllm_rs.checkpoint.gguf.kinds import PACKED, layout_of, require_known, row_nbytes
from airllm_rs.checkpoint.model_files import read_json
from airllm_rs.checkpoint.stored import Q, StoredPart, StoredWeight, TensorInfo
from airllm_rs.errors import AirLLMError, CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from airllm_rs.checkpoint.gguf.names import Match

INDEX = "tensors.json"
"""Has the tensors of a model that was opened before, so that its headers need not be parsed."""


@dataclass(frozen=True)
class GgufTensors:
    """A `TensorTable`; of a packed matrix the bytes, as ``U8`` of shape (rows, bytes of a row)."""

    files: list[str]
    infos: Mapping[str, TensorInfo] = field(repr=False)
    weights: Mapping[str, StoredWeight] = field(repr=False)
    """Those that are packed, whose rows are in another order, or whose numbers are others."""
    has_tokenizer: bool
    metadata: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self.infos)

    def tensor(self, name: str) -> TensorInfo:
        """Return what a tensor is and where it lies."""
        return self.infos[name]

    def __contains__(self, name: str, /) -> bool:
        return name in self.infos


def entries_of(path: Path, matches: Sequence[Match], head_dim: int) -> list[list[object]]:
    """Return what `INDEX` says about each tensor.

    That is its name, type, shape, file and offset, how many of its rows are interleaved, and what
    has to be added to its numbers.

    Raises:
        UnsupportedModelError: naming a tensor of a type that cannot be read.
        CheckpointError: naming one whose rows are no whole blocks.
    """
    entries: list[list[object]] = []
    for match in matches:
        stored = match.stored
        tensor = f"{path}: {stored.name}"
        require_known(tensor, stored.kind)
        if stored.kind in PACKED:
            row_nbytes(tensor, stored.kind, stored.shape)
        interleaved = head_dim if match.is_permuted else 0
        place = (stored.file, stored.offset)
        entries.append([match.name, stored.kind, stored.shape, *place, interleaved, match.shift])
    return entries


def write_tensors(
    directory: Path, entries: Sequence[Sequence[object]], *, has_tokenizer: bool
) -> None:
    """Write `INDEX`."""
    write_json(directory / INDEX, {"has_tokenizer": has_tokenizer, "tensors": entries})


def read_tensors(directory: Path, files: Sequence[Path]) -> GgufTensors:
    """Return the tensors that `INDEX` lists.

    Args:
        directory: Has it.
        files: The parts of the model, in order.

    Raises:
        CheckpointError: if it is broken.
    """
    index = read_json(directory / INDEX)
    listed, has_tokenizer = index.get("tensors"), bool(index.get("has_tokenizer"))
    infos: dict[str, TensorInfo] = {}
    weights: dict[str, StoredWeight] = {}
    try:
        assert isinstance(listed, list)
        for name, kind, shape, file, offset, interleaved, shift in listed:
            weight = _weight(name, kind, tuple(shape), file, offset, interleaved, shift)
            infos[name] = weight.parts[0].info
            if weight.layout is not None or weight.interleaved or weight.shift:
                weights[name] = weight
    except (AirLLMError, AssertionError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / INDEX} is broken: delete {directory}") from error
    return GgufTensors([str(path.absolute()) for path in files], infos, weights, has_tokenizer)


def _weight(
    name: str,
    kind: str,
    shape: tuple[int, ...],
    file: int,
    offset: int,
    interleaved: int,
    shift: float,
) -> StoredWeight:
    layout = layout_of(kind)
    if layout is None:
        nbytes = 4 if kind == "F32" else 2
        for size in shape:
            nbytes *= size
        info = TensorInfo(kind, shape, file, offset, nbytes)
    else:
        width = row_nbytes(name, kind, shape)
        info = TensorInfo("U8", (shape[0], width), file, offset, shape[0] * width)
    part = StoredPart(Q, name, info)
    return StoredWeight(name, shape, (part,), layout, interleaved=interleaved, shift=shift)
