"""Tiny checkpoints in the formats of `packed_formats`, and the same numbers unpacked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from packed_formats import FORMATS
from tiny import tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from packed_formats import Encoded

SHAPE: dict[str, object] = {
    "hidden_size": 256,
    # blocks of 128 are cut off, and blocks of bitsandbytes run over the ends of rows
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def packed_checkpoint(
    path: Path, name: str, model_type: str = "llama", **shape: object
) -> tuple[Path, Path]:
    """Write a checkpoint whose linears are packed, and one of what they mean; return both."""
    settings, encode, _ = FORMATS[name]
    plain = tiny_checkpoint(model_type, path / "plain", **{**SHAPE, **shape})  # type: ignore[arg-type]
    weights = load_file(plain / "model.safetensors")
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in list(weights.items()):
        if "_proj.weight" not in key:
            tensors[key] = tensor
            continue
        module = key.removesuffix("weight")
        parts, weights[key] = encode(tensor)
        tensors |= {module + part: found.contiguous() for part, found in parts.items()}
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    target = path / "packed"
    target.mkdir()
    config = json.loads((plain / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target, plain


def split(
    path: Path, encode: Callable[[torch.Tensor], Encoded], kind: str, **shape: object
) -> tuple[Path, Path]:
    """Write what AirLLM makes of a checkpoint, in which all is packed; return both directories."""
    plain = tiny_checkpoint("llama", path / "plain", **{**SHAPE, **shape})  # type: ignore[arg-type]
    weights = load_file(plain / "model.safetensors")
    files: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in list(weights.items()):
        parts, weights[key] = encode(tensor)
        layer = key.partition(".weight")[0]
        if ".layers." in key:
            layer = ".".join(key.split(".")[:3])
        held = files.setdefault(layer, {})
        held |= {key + part: found.contiguous() for part, found in parts.items()}
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    target = path / "original" / f"splitted_model.{kind}"
    target.mkdir(parents=True)
    (target.parent / "config.json").write_text((plain / "config.json").read_text())
    for layer, tensors in files.items():
        save_file(tensors, target / f"{layer}.safetensors")
        (target / f"{layer}.safetensors.done").touch()
    return target, plain
