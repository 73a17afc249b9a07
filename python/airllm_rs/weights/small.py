"""Tensors that are read at once, past the memory plan: small ones that are no weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from airllm_rs.checkpoint import ModelFiles

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_tensor(files: ModelFiles, name: str) -> torch.Tensor:
    """Read a tensor of a checkpoint, in the dtype that it is stored in.

    Raises:
        CheckpointError: if its dtype is none of torch's, or the file ends before it does.
        OSError: if the file cannot be read.
    """
    info = files.tensor(name)
    dtype = _DTYPES.get(info.dtype)
    if dtype is None:
        raise CheckpointError(f"{name} is stored as {info.dtype}, which cannot be read whole")
    path = files.files[info.file]
    with Path(path).open("rb") as file:
        file.seek(info.offset)
        content = bytearray(file.read(info.nbytes))
    if len(content) != info.nbytes:
        raise CheckpointError(f"{path} ends within {name}")
    if not content:
        return torch.empty(info.shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).view(info.shape)
