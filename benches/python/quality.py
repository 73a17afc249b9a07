"""What encoding costs: error of the weights, and perplexity of a model, as JSON and a table.

    python benches/python/quality.py [--weights FILE.safetensors] [--model DIR|GGUF] [--windows 16]

Relative squared error of weights (Gaussian, and the linear layers of ``--weights``) in every scheme
of a shard store, and in NF4 as AirLLM has it: absmax of 64 weights, every tensor of the checkpoint,
norms and embeddings too. Perplexity of ``--model`` (a bf16 checkpoint, or a Llama's GGUF file, of
which one is made) on Python's own help texts (`pydoc_data.topics`), computed in float32 so that
nothing but the weights differs: ours through `AutoModel` and ``compression=``, AirLLM's way through
transformers. Weights are decoded here with numpy, by the formulas of docs/format.md.

`make quality` fetches all-MiniLM-L6-v2 and SmolLM2-135M-Instruct and runs it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import pydoc_data.topics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import gguf
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors
from transformers import AutoModelForCausalLM, AutoTokenizer

from airllm_rs import AutoModel, _core

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

OWN = ("8bit", "4bit", "4bit-hq", "nf4")
AIRLLM = "nf4, every tensor (AirLLM)"
BITS = {"8bit": 8.125, "4bit": 4.25, "4bit-hq": 4.5, "nf4": 4.5, AIRLLM: 4.5}

NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


# What llama.cpp calls the tensors of a Llama, and Hugging Face does.
OF_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class LanguageModel(Protocol):
    """What perplexity is measured of."""

    def __call__(self, ids: torch.Tensor, /) -> object:
        """Return something with ``logits``."""


def gaussian(rows: int = 1024, cols: int = 4096) -> Array:
    """Return a matrix of independent normal numbers, always the same."""
    numbers = np.random.default_rng(0).standard_normal((rows, cols), np.float32)
    return numbers * np.float32(0.02)


def linears(path: Path) -> dict[str, Array]:
    """Return the matrices of a checkpoint's linear layers in its encoder or decoder layers."""
    return {
        name: tensor.astype(np.float32)
        for name, tensor in load_file(path).items()
        if tensor.ndim == 2 and ".layer" in name and name.endswith(".weight")
    }


def encode_and_decode(matrices: Mapping[str, Array], scheme: str) -> dict[str, Array]:
    """Write matrices into a file of a shard store, and return what that means."""
    jobs: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "source.safetensors", Path(directory) / "store"
        target.mkdir()
        save_file(dict(matrices), source)
        opened = _core.Checkpoint.open(source)
        for name in matrices:
            dtype, shape, file, offset, nbytes = opened.tensor(name)
            jobs.append((name, dtype, list(shape), (file, offset, nbytes), scheme, True))
        _core.write_store(
            [target],
            [source],
            [("w.safetensors", "w", 0, {}, jobs)],
            threads=2,
            block_bytes=8 << 20,
        )
        stored = load_file(target / "w.safetensors")
    return {name: decode(stored, name, tensor.shape) for name, tensor in matrices.items()}


def decode(stored: Mapping[str, NDArray[np.generic]], name: str, shape: tuple[int, ...]) -> Array:
    """Return a matrix of any scheme, as docs/format.md says."""
    if f"{name}.absmax" in stored:
        codes = _nibbles(stored[name].reshape(1, -1))
        absmax = stored[f"{name}.absmax"].astype(np.float32)
        return (NF4[codes].reshape(-1, 64) * absmax[:, None]).reshape(shape)
    q, row = stored[f"{name}.q"], stored[f"{name}.row"].astype(np.float32)
    numbers = q.astype(np.float32) if q.dtype == np.int8 else NF4[_nibbles(q)]
    scales = stored[f"{name}.scale"].astype(np.float32) * row[:, None]
    return numbers * np.repeat(scales, shape[1] // scales.shape[1], axis=1)


def nf4_of_airllm(tensor: Array) -> Array:
    """Return what is left of any tensor: flattened, blocks of 64, the scale its largest."""
    flat = tensor.reshape(-1)
    blocks = np.pad(flat, (0, -flat.size % 64)).reshape(-1, 64)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    unit = blocks / np.where(absmax == 0, np.float32(1), absmax)
    codes = np.searchsorted((NF4[1:] + NF4[:-1]) / 2, unit)
    decoded: Array = (NF4[codes] * absmax).reshape(-1)[: flat.size].reshape(tensor.shape)
    return decoded


def relative_error(found: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Return the squared error of all matrices together over their squares, in percent."""
    error = sum(
        float(np.square(found[name] - w, dtype=np.float64).sum()) for name, w in expected.items()
    )
    return 100 * error / sum(float(np.square(w, dtype=np.float64).sum()) for w in expected.values())


def weight_errors(matrices: Mapping[str, Array]) -> dict[str, float]:
    """Return the relative squared error in percent, of each scheme."""
    errors = {
        scheme: relative_error(encode_and_decode(matrices, scheme), matrices) for scheme in OWN
    }
    found = {name: nf4_of_airllm(tensor) for name, tensor in matrices.items()}
    return errors | {AIRLLM: relative_error(found, matrices)}


def bf16_checkpoint(path: Path, target: Path) -> None:
    """Write the Llama of a GGUF file as a bf16 checkpoint, read by the gguf package."""
    with AutoModel.from_pretrained(path, progress=False) as model:
        model.config.save_pretrained(target)
        model.tokenizer.save_pretrained(target)
        heads = {
            "attn_q": model.config.num_attention_heads,
            "attn_k": model.config.num_key_value_heads,
        }
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        first, *rest = tensor.name.removesuffix(".weight").split(".")
        if rest:
            number, part = rest
            if part in heads:
                # llama.cpp rotates neighbours where Hugging Face rotates halves
                pairs = numbers.reshape(heads[part], -1, 2, numbers.shape[1])
                numbers = pairs.swapaxes(1, 2).reshape(numbers.shape)
            name = f"model.layers.{number}.{OF_LAYER[part]}.weight"
        else:
            name = f"{OF_MODEL[first]}.weight"
        tensors[name] = torch.from_numpy(numbers.copy()).to(torch.bfloat16)
    save_tensors(tensors, target / "model.safetensors", metadata={"format": "pt"})


def text() -> str:
    """Return Python's help texts: English with some code, the same on every machine with it."""
    return "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))


def windows(model: Path, count: int, tokens: int) -> torch.Tensor:
    """Return windows of shape (count, tokens), spread evenly over the text."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = torch.tensor(tokenizer(text(), add_special_tokens=False, verbose=False).input_ids)
    starts = [(len(ids) - tokens) * number // max(count - 1, 1) for number in range(count)]
    return torch.stack([ids[start : start + tokens] for start in starts])


def perplexity(model: LanguageModel, ids: torch.Tensor) -> float:
    """Return the perplexity over the windows ``ids``, the first token of each left out."""
    total = 0.0
    with torch.inference_mode():
        for window in ids[:, None]:
            logits: torch.Tensor = model(window).logits  # type: ignore[attr-defined]
            loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), window[0, 1:])
            total += float(loss)
    return math.exp(total / len(ids))


def perplexity_of_ours(model: Path, scheme: str | None, ids: torch.Tensor, place: Path) -> float:
    """Return the perplexity of a checkpoint with ``compression=scheme``."""
    with AutoModel.from_pretrained(
        model,
        dtype="float32",
        compression=scheme,
        layer_shards_saving_path=str(place),
        context=ids.shape[1],
        progress=False,
    ) as opened:
        return perplexity(opened, ids)


def perplexity_of_airllms(model: Path, ids: torch.Tensor) -> float:
    """Return the perplexity of a checkpoint, every tensor of which is NF4."""
    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.from_numpy(nf4_of_airllm(parameter.numpy())))
    return perplexity(theirs, ids)


def perplexities(model: Path, ids: torch.Tensor) -> Iterator[tuple[str, float]]:
    """Yield each scheme and what it makes of the model."""
    with tempfile.TemporaryDirectory() as directory:
        for scheme in (None, *OWN):
            yield scheme or "bf16", perplexity_of_ours(model, scheme, ids, Path(directory))
    yield AIRLLM, perplexity_of_airllms(model, ids)


def table(errors: Mapping[str, Mapping[str, float]], found: Mapping[str, float]) -> str:
    """Return all of it in Markdown."""
    lines = [
        f"| scheme | bits | {', % | '.join(errors)}, % | perplexity | beside bf16 |",
        f"|---|---|{'---|' * len(errors)}---|---|",
    ]
    for scheme in ("bf16", *OWN, AIRLLM):
        row = [scheme, f"{BITS.get(scheme, 16):g}"]
        row += [f"{errors[name][scheme]:.3g}" if scheme in errors[name] else "0" for name in errors]
        if scheme in found:
            row += [f"{found[scheme]:.3f}", f"{100 * (found[scheme] / found['bf16'] - 1):+.2f} %"]
        else:
            row += ["", ""]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a file with real weights in float32")
    parser.add_argument("--model", type=Path, help="a bf16 checkpoint, or a GGUF file")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1024)
    options = parser.parse_args()
    errors = {"Gaussian": weight_errors({"w": gaussian()})}
    if options.weights is not None:
        errors["real"] = weight_errors(linears(options.weights))
    found: dict[str, float] = {}
    if options.model is not None:
        with tempfile.TemporaryDirectory() as directory:
            model = options.model
            if model.suffix == ".gguf":
                model = Path(directory)
                bf16_checkpoint(options.model, model)
            ids = windows(model, options.windows, options.tokens)
            found = dict(perplexities(model, ids))
    report = {
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "build_profile": _core.__build_profile__,
            "simd": _core.simd_tier(),
        },
        "config": {name: str(value) for name, value in vars(options).items()},
        "relative_squared_error_percent": errors,
        "perplexity": found,
    }
    print(json.dumps(report))
    print(table(errors, found), file=sys.stderr)


def _nibbles(packed: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return four-bit codes of shape (rows, cols); the high half of a byte comes first."""
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape(len(packed), -1)  # type: ignore[operator]


if __name__ == "__main__":
    main()
