"""Decodes weights of a checkpoint without running it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from airllm_rs import _core
from airllm_rs.weights.packed import packed_layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from airllm_rs.checkpoint import ModelFiles


@pytest.fixture
def decoded() -> Callable[[ModelFiles, str], Tensor]:
    """Return what decodes a weight whose parts lie as kernels read them, or are repacked."""

    def decode(files: ModelFiles, name: str) -> Tensor:
        stored = files.stored(name)
        assert stored.layout is not None
        rows, cols = prod(stored.shape[:-1]), stored.shape[-1]
        parts: dict[str, tuple[object, int]] = {
            role: (constant, 0) for role, constant in stored.constants.items()
        }
        for part in stored.parts:
            info = part.info
            content = Path(files.files[info.file]).read_bytes()[info.offset :][: info.nbytes]
            if part.repacking is not None:
                out = bytearray(part.repacking.nbytes(rows))
                shape = (rows, part.repacking.cols, part.repacking.bits)
                _core.repack(part.repacking.kind, shape, (content, 0, len(content)), out)
                parts[part.role] = (out, 0)
            else:
                parts[part.role] = (content, 0)
        q = parts.pop("q")
        weight = _core.Weight(packed_layout(stored.layout), rows, cols, q, **parts)
        numbers = torch.zeros(stored.shape)
        _core.dequantize_into(weight, numbers.numpy(), "F32")
        return numbers

    return decode
