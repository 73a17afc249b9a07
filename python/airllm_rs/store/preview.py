"""A store that does not exist yet, as it would be opened: names, shapes and sizes, no bytes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed import bitsandbytes, store
from airllm_rs.checkpoint.packed.codebooks import NF4
from airllm_rs.checkpoint.packed.tensors import Tensors
from airllm_rs.store.companions import config_of_store
from airllm_rs.store.jobs import UNIT_BYTES, has_own_head, plan_store
from airllm_rs.store.schemes import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airllm_rs.checkpoint import ModelFiles
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family
    from airllm_rs.store.jobs import FileJob, TensorJob

# As docs/format.md says of tensors that are read for themselves, and of others.
_UNIT_ALIGNMENT = 4096
_ALIGNMENT = 64

_Tensor = tuple[str, tuple[int, ...], int, int, int]


def preview(files: ModelFiles, config: ModelConfig, family: Family, scheme: str) -> ModelFiles:
    """Return the store of a checkpoint as it would be opened, for whoever only counts bytes.

    Its files do not exist. Offsets are right as far as alignment goes; headers and pads are not
    counted.

    Args:
        files: The checkpoint.
        config: Its configuration.
        family: Its family.
        scheme: What matrices would be encoded with.
    """
    jobs = plan_store(config, family, files, scheme)
    table = _Table([f"{files.path / scheme / job.name}" for job in jobs])
    for number, job in enumerate(jobs):
        _place(table, number, job)
    tensors = _Tensors(table)
    return replace(
        files,
        config=config_of_store(files.config, scheme, has_own_head=has_own_head(jobs)),
        core=table,
        packed=store.find(tensors, {}) | bitsandbytes.find(tensors, {}),
    )


class _Table:
    """Tensors by name, as `TensorTable` has them."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.metadata: dict[str, str] = {}
        self.constants: dict[str, bytes] = {}
        self._tensors: dict[str, _Tensor] = {}

    def add(self, name: str, tensor: _Tensor) -> None:
        self._tensors[name] = tensor

    def names(self) -> list[str]:
        return list(self._tensors)

    def tensor(self, name: str) -> _Tensor:
        return self._tensors[name]

    def __contains__(self, name: str, /) -> bool:
        return name in self._tensors


class _Tensors(Tensors):
    """Small tensors are known, not read."""

    def __init__(self, table: _Table) -> None:
        super().__init__(table)
        self._constants = table.constants

    def content(self, name: str) -> bytes:
        return self._constants[name]


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    content: bytes | None = None


def _place(table: _Table, number: int, job: FileJob) -> None:
    offset = _UNIT_ALIGNMENT
    for tensor in sorted(job.tensors, key=lambda tensor: tensor.info.nbytes < UNIT_BYTES):
        begins = tensor.info.nbytes >= UNIT_BYTES
        for part in _parts(tensor):
            offset = -(-offset // _UNIT_ALIGNMENT) * _UNIT_ALIGNMENT if begins else offset
            offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
            table.add(part.name, (part.dtype, part.shape, number, offset, part.nbytes))
            if part.content is not None:
                table.constants[part.name] = part.content
            offset += part.nbytes
            begins = False


def _parts(tensor: TensorJob) -> Iterator[_Part]:
    """Yield what is written of a tensor."""
    name, info = tensor.name, tensor.info
    if tensor.scheme is None:
        yield _Part(name, info.dtype, info.shape, info.nbytes)
        return
    rows, cols = info.shape
    blocks = cols // BLOCK[tensor.scheme]
    if tensor.scheme == "nf4":
        state = {"quant_type": "nf4", "blocksize": BLOCK["nf4"], "shape": [rows, cols]}
        table, about = struct.pack(f"<{len(NF4)}f", *NF4), json.dumps(state).encode()
        yield _Part(name, "U8", (rows * cols // 2, 1), rows * cols // 2)
        yield _Part(f"{name}.absmax", "F32", (rows * blocks,), 4 * rows * blocks)
        yield _Part(f"{name}.quant_map", "F32", (len(NF4),), len(table), table)
        key = f"{name}.quant_state.bitsandbytes__nf4"
        yield _Part(key, "U8", (len(about),), len(about), about)
        return
    codes, of_scales = ("I8", "U8") if tensor.scheme == "8bit" else ("U8", "I8")
    shape = (rows, cols if tensor.scheme == "8bit" else cols // 2)
    yield _Part(f"{name}.q", codes, shape, prod(shape))
    yield _Part(f"{name}.scale", of_scales, (rows, blocks), rows * blocks)
    yield _Part(f"{name}.row", "F32", (rows,), 4 * rows)
