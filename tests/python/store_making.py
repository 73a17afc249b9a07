"""Checkpoints large enough to be encoded, stores made of them, and a decoder of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.families import family_of, read_config
from airllm_rs.stats.progress import NoProgress
from airllm_rs.store import StoreRequest, make_store

if TYPE_CHECKING:
    from pathlib import Path

    from airllm_rs.store.making import Made

SHAPE: dict[str, object] = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}

NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


def request(model: Path, *directories: Path, scheme: str | None = None) -> StoreRequest:
    """Return the request for a store of a checkpoint."""
    files = open_checkpoint(model)
    config = read_config(files.config)
    family = family_of(config)
    return StoreRequest(files, config, family, scheme, directories, memory_bytes=4 << 30)


def make(model: Path, *directories: Path, scheme: str | None = None, **changes: object) -> Made:
    """Make a store."""
    asked = replace(request(model, *directories, scheme=scheme), **changes)  # type: ignore[arg-type]
    return make_store(asked, NoProgress())


def tensors(*directories: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of all files, as the safetensors package reads them."""
    found: dict[str, torch.Tensor] = {}
    for directory in directories:
        for path in sorted(directory.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    if not name.startswith("__pad__."):
                        assert name not in found
                        found[name] = file.get_tensor(name)
    return found


def decode(stored: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Decode a matrix of our own schemes as docs/format.md says."""
    q, scale = stored[f"{name}.q"].numpy(), stored[f"{name}.scale"].numpy()
    row = stored[f"{name}.row"].numpy()
    if q.dtype == np.int8:
        codes = q.astype(np.float32)
    else:
        codes = NF4[np.stack([q >> 4, q & 15], axis=-1).reshape(len(q), -1)]
    block = codes.shape[1] // scale.shape[1]
    scales = scale.astype(np.float32) * row[:, None]
    return torch.from_numpy(codes * np.repeat(scales, block, axis=1))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the mean squared error, over the mean square."""
    expected = expected.float()
    return float((found - expected).square().sum() / expected.square().sum())


def manifest(directory: Path) -> dict[str, object]:
    """Return the contents of a manifest."""
    content: dict[str, object] = json.loads((directory / "airllm_rs.json").read_text())
    return content


def plain_copy(store: Path, target: Path) -> Path:
    """Write a checkpoint in float32 of what a store's own files mean, for transformers to load."""
    stored = tensors(store)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if f"{name}.absmax" in stored:
            weights[name] = decode_nf4(stored, name)
        elif name.endswith(".q"):
            matrix = name.removesuffix(".q")
            weights[matrix] = decode(stored, matrix)
        elif not any(part in name for part in (".weight.", ".bias.")):
            weights[name] = tensor.float()
    config = json.loads((store / "config.json").read_text())
    config.pop("quantization_config", None)
    # the copy of a tied table has numbers of its own
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config))
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def decode_nf4(stored: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Decode a matrix of an ``nf4`` store."""
    q, absmax = stored[name].numpy().reshape(-1), stored[f"{name}.absmax"].numpy()
    state = json.loads(bytes(stored[f"{name}.quant_state.bitsandbytes__nf4"].tolist()))
    codes = NF4[np.stack([q >> 4, q & 15], axis=-1)].reshape(-1, state["blocksize"])
    return torch.from_numpy((codes * absmax[:, None]).reshape(state["shape"]))
