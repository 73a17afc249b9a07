"""Rows of an embedding table, read from the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from airllm_rs.families.family import EMBEDDING
from airllm_rs.weights.rows import row_reader
from loading import open_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_are_the_tables(dtype: torch.dtype, tiny_checkpoint: Callable[..., Path]) -> None:
    path = tiny_checkpoint("llama", dtype=dtype)
    files = open_files(path)
    table = load_file(path / "model.safetensors")[EMBEDDING]
    rows = row_reader(files, EMBEDDING, compute_dtype=torch.float32)
    ids = torch.tensor([[159, 0, 7], [7, 7, 100]])
    assert torch.equal(rows(ids), table[ids].float())
    assert torch.equal(rows(ids.T), table[ids.T].float())
    assert rows(ids[:, :0]).shape == (2, 0, 64)


@pytest.mark.parametrize("wrong", [-1, 160])
def test_ids_outside_of_the_table_are_refused(
    wrong: int, tiny_checkpoint: Callable[..., Path]
) -> None:
    files = open_files(tiny_checkpoint("llama"))
    rows = row_reader(files, EMBEDDING, compute_dtype=torch.float32)
    with pytest.raises(IndexError, match="160"):
        rows(torch.tensor([[3, wrong]]))
