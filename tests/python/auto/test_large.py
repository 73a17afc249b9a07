"""A checkpoint of hundreds of gigabytes is described by its headers, whatever lies behind them."""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path

import pytest

import airllm_rs
from airllm_rs.families import family_of, read_config

CONFIG: dict[str, object] = {
    "model_type": "llama", "hidden_size": 16384, "intermediate_size": 53248,
    "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip


def read_bytes() -> int:
    """Return what this process has read, from caches and disks."""
    return int(Path("/proc/self/io").read_text().partition("rchar:")[2].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc counts what is read")
def test_only_headers_are_read(tmp_path: Path) -> None:
    config = read_config(CONFIG)
    weight_map: dict[str, str] = {}
    headers = 0
    for layer in family_of(config).layers(config):
        name = f"{layer.name}.safetensors"
        header, end = {}, 0
        for spec in layer.tensors:
            begin, end = end, end + 2 * prod(spec.shape)
            entry = {"dtype": "BF16", "shape": spec.shape, "data_offsets": [begin, end]}
            header[spec.name] = entry
            weight_map[spec.name] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (tmp_path / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)  # a hole, which takes no room
        headers += 8 + len(text)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    airllm_rs.inspect(tmp_path)  # imports are not counted
    before = read_bytes()
    found = airllm_rs.inspect(tmp_path)
    taken = read_bytes() - before
    assert isinstance(found["total_bytes"], int)
    assert found["total_bytes"] > 800e9
    assert taken < 2 * (headers + len(index)) + (64 << 10)
