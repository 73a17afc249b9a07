"""Tiny checkpoints of the families that transformers does not know, as their makers ship them."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from models.originals import families
from models.originals.configs import (
    VOCAB,
    baichuan,
    chatglm,
    internlm,
    internlm2,
    internlm3,
    qwen,
    qwen_first,
    yi,
)
from models.originals.tensors import shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from models.originals.reference import Reference

Overrides = dict[str, object]

TOKENS = 21
PADDING = 5
PREFILL = 13
STEPS = [(0, PREFILL), *((n, n + 1) for n in range(PREFILL, TOKENS))]
CHUNKS = [(0, 9), (9, 14), (14, 15), (15, TOKENS)]


@dataclass(frozen=True)
class Case:
    """A checkpoint, and the reference that judges it."""

    config: Mapping[str, object]
    reference: type[Reference]
    overrides: Mapping[str, object] = field(default_factory=dict)
    """What a tiny model must be told, for its size does not say what it is."""


ALIBI: Overrides = {"position_embedding": "alibi"}
ROPE: Overrides = {"position_embedding": "rope"}
NORM: Overrides = {"norm_head": True}
PLAIN: Overrides = {"norm_head": False}
DYNAMIC = {"type": "dynamic", "factor": 2.0}

CASES: dict[str, Case] = {
    "chatglm2": Case(chatglm(), families.ChatGLM),
    "chatglm3": Case(chatglm(heads=8, groups=2), families.ChatGLM),
    "chatglm, glm-4-9b": Case(chatglm(groups=4, heads=8, rope_ratio=500), families.ChatGLM),
    "qwen": Case(qwen(seq_length=64), families.QWen),
    "qwen, past its length": Case(qwen(seq_length=16), families.QWen),
    "qwen, no ntk, no logn": Case(
        qwen(seq_length=16, use_dynamic_ntk=False, use_logn_attn=False, rotary_emb_base=1000000),
        families.QWen,
    ),
    "qwen, first revision": Case(qwen_first(seq_length=16), families.QWen),
    "baichuan-7b": Case(baichuan("BaiChuan", rope=True), families.Baichuan, ROPE | PLAIN),
    "baichuan2-7b": Case(baichuan(rope=True), families.Baichuan2, ROPE | NORM),
    "baichuan-13b": Case(baichuan(), families.BaichuanAlibi, ALIBI | PLAIN),
    "baichuan-13b, 6 heads": Case(baichuan(heads=6), families.BaichuanAlibi, ALIBI | PLAIN),
    "baichuan2-13b": Case(baichuan(z_loss=True), families.Baichuan2Alibi, ALIBI | NORM),
    "baichuan2-13b, 6 heads": Case(
        baichuan(heads=6, z_loss=True), families.Baichuan2Alibi, ALIBI | NORM
    ),
    "internlm": Case(internlm(), families.InternLM),
    "internlm, no bias": Case(internlm(bias=False), families.InternLM),
    "internlm, dynamic": Case(
        internlm(rotary={"base": 10000, "type": "dynamic"}, max_position_embeddings=16),
        families.InternLM,
    ),
    "internlm2": Case(internlm2(), families.InternLM2),
    "internlm2, biases": Case(internlm2(bias=True), families.InternLM2),
    "internlm2, dynamic": Case(
        internlm2(rope_scaling=DYNAMIC, max_position_embeddings=16), families.InternLM2
    ),
    "internlm2, dynamic, factor 1": Case(
        internlm2(rope_scaling=DYNAMIC | {"factor": 1.0}, max_position_embeddings=16),
        families.InternLM2,
    ),
    "internlm3": Case(internlm3(), families.InternLM3),
    "internlm3, dynamic": Case(
        internlm3(rope_scaling={"rope_type": "dynamic", "factor": 6.0}, max_position_embeddings=16),
        families.InternLM3,
    ),
    "Yi": Case(yi(), families.Yi),
}


def weights(name: str) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of a case, the same each time."""
    return random_weights(CASES[name].config, seed=zlib.crc32(name.encode()))


def random_weights(config: Mapping[str, object], seed: int) -> dict[str, NDArray[np.float32]]:
    """Return tensors for a configuration.

    Attention is far from uniform, norms and biases are random, and every value is a bfloat16.
    """
    generator = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for key, shape in shapes(config).items():
        noise = generator.standard_normal(shape)
        if key.endswith("inv_freq"):
            noise = np.full(shape, 7.0)  # nothing may read it
        elif key.endswith("bias"):
            noise *= 0.3
        elif len(shape) == 1:
            noise = 1 + 0.3 * noise
        elif "embed" not in key and "wte" not in key:
            noise *= _gain(key) / np.sqrt(shape[1])
        tensors[key] = _as_bfloat16(noise)
    return tensors


def _gain(name: str) -> float:
    queries = ("query_key", "c_attn", "W_pack", "wqkv", "q_proj", "k_proj")
    return 2.0 if any(part in name for part in queries) else 0.8


def _as_bfloat16(x: NDArray[np.float64]) -> NDArray[np.float32]:
    bits = x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def write(name: str, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the checkpoint of a case into the directory ``path``, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    config = {**CASES[name].config, "torch_dtype": str(dtype).removeprefix("torch.")}
    (path / "config.json").write_text(json.dumps(config, indent=2))
    tensors = {
        key: torch.from_numpy(tensor).to(torch.float32 if key.endswith("inv_freq") else dtype)
        for key, tensor in weights(name).items()
    }
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def tokens() -> NDArray[np.int64]:
    """Return the ids of all comparisons, (2, `TOKENS`)."""
    return np.random.default_rng(6).integers(3, VOCAB, (2, TOKENS))


def padded() -> NDArray[np.int64]:
    """Return the mask of a batch whose first sequence is padded on the left."""
    mask = np.ones((2, TOKENS), np.int64)
    mask[0, :PADDING] = 0
    return mask


def reference_logits(
    name: str,
    calls: Sequence[tuple[int, int]] = ((0, TOKENS),),
    *,
    is_padded: bool = False,
    without: Sequence[str] = (),
) -> NDArray[np.float64]:
    """Return what the reference makes of `tokens`, given in so many ``calls``."""
    make: Callable[..., Reference] = CASES[name].reference
    model = make(CASES[name].config, weights(name), without=without)
    ids, mask = tokens(), padded() if is_padded else None
    parts = [
        model(ids[:, start:stop], None if mask is None else mask[:, :stop]) for start, stop in calls
    ]
    return np.concatenate(parts, axis=1)
