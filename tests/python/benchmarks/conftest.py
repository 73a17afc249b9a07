"""A checkpoint that is large enough to stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airllm_rs.benchmarks.make_model import ModelShape, make_model
from airllm_rs.stats import choose_progress

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers whose matrices do not fit into 3 MiB."""
    shape = ModelShape(
        num_hidden_layers=3,
        hidden_size=256,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=320,
        dtype="f32",
    )
    path = tmp_path_factory.mktemp("made") / "model"
    return make_model(path, shape, progress=choose_progress(progress=False)).path
