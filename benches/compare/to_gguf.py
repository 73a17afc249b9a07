"""Write a GGUF file of a bf16 safetensors checkpoint, one tensor in memory at a time.

Llama and Mistral checkpoints, without torch. ``architecture="qwen3"`` writes the same weights in
the shape of Qwen3 (all-ones q and k norms, halves rotated instead of pairs) for a peer that knows
no other: as many bytes and products, not the same function.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import numpy.typing as npt

Architecture = Literal["llama", "qwen3"]

# Names of a decoder layer's tensors: the checkpoint's, GGUF's.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


@dataclass(frozen=True)
class Shape:
    """What GGUF wants to know from config.json."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_theta: float
    norm_eps: float


@dataclass(frozen=True)
class Stored:
    """A bf16 tensor in a checkpoint file."""

    path: Path
    offset: int
    shape: tuple[int, ...]

    def read(self) -> npt.NDArray[np.uint16]:
        """Return the bits of the tensor."""
        count = int(np.prod(self.shape))
        return np.fromfile(self.path, np.uint16, count, offset=self.offset).reshape(self.shape)


def read_shape(model: Path) -> Shape:
    """Read config.json, refusing what the file would not reproduce."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in ("llama", "mistral"):
        raise SystemExit(f"{model}: no GGUF of model_type {config['model_type']!r}: llama, mistral")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise SystemExit(f"{model}: no GGUF with rope_type {rope['rope_type']!r}: default")
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        context=config.get("max_position_embeddings", 4096),
        rope_theta=rope.get("rope_theta") or config.get("rope_theta", 10000.0),
        norm_eps=config["rms_norm_eps"],
    )


def stored_tensors(model: Path) -> dict[str, Stored]:
    """Return every tensor of the checkpoint by name."""
    tensors: dict[str, Stored] = {}
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] != "BF16":
                raise SystemExit(f"{path}: {name} is {entry['dtype']}, a bf16 checkpoint is wanted")
            offset = 8 + header_bytes + entry["data_offsets"][0]
            tensors[name] = Stored(path, offset, tuple(entry["shape"]))
    return tensors


def gguf_name(name: str) -> str:
    """Return GGUF's name of a checkpoint's tensor."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    number, _, inner = name.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{LAYER_NAMES[inner.removesuffix('.weight')]}.weight"


def halves_to_pairs(rows: npt.NDArray[np.uint16], heads: int) -> npt.NDArray[np.uint16]:
    """Reorder rows of q or k: checkpoints rotate i with i + D/2, GGUF's llama 2i with 2i + 1."""
    total, columns = rows.shape
    split = rows.reshape(heads, 2, total // heads // 2, columns)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(total, columns)


def widen(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return bf16 bits as f32, which llama.cpp wants norms to be."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def contents(
    tensors: dict[str, Stored], shape: Shape, architecture: Architecture
) -> Iterator[tuple[str, npt.NDArray[np.uint16] | npt.NDArray[np.float32]]]:
    """Yield name and data of each tensor in the order of the checkpoint."""
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}
    for name, stored in tensors.items():
        bits = stored.read()
        kind = name.split(".")[-2]
        if bits.ndim == 1:
            yield gguf_name(name), widen(bits)
        elif kind in heads and architecture == "llama":
            yield gguf_name(name), halves_to_pairs(bits, heads[kind])
        else:
            yield gguf_name(name), bits
    if architecture == "qwen3":
        for layer in range(shape.layers):
            for norm in ("attn_q_norm", "attn_k_norm"):
                yield f"blk.{layer}.{norm}.weight", np.ones(shape.head_dim, np.float32)


def declared(
    tensors: dict[str, Stored], shape: Shape, architecture: Architecture
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each tensor in the order of ``contents``, reading none."""
    yield from ((gguf_name(name), stored.shape) for name, stored in tensors.items())
    if architecture == "qwen3":
        for layer in range(shape.layers):
            for norm in ("attn_q_norm", "attn_k_norm"):
                yield f"blk.{layer}.{norm}.weight", (shape.head_dim,)


def add_vocabulary(writer: gguf.GGUFWriter, model: Path, size: int) -> None:
    """Add the checkpoint's byte-level BPE, padded to ``size`` tokens."""
    path = model / "tokenizer.json"
    bpe = json.loads(path.read_text(encoding="utf-8"))["model"] if path.exists() else {}
    names = {number: token for token, number in bpe.get("vocab", {}).items() if number < size}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([names.get(number, f"<unused{number}>") for number in range(size)])
    normal, unused = gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    writer.add_token_types([normal if number in names else unused for number in range(size)])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe.get("merges", [])]
    # GGUF cannot hold an empty array; prompts are given as token ids, so no merge is ever applied.
    writer.add_token_merges(merges or ["a b"])


def convert(model: Path, out: Path, architecture: Architecture) -> None:
    """Write ``out``, through a temporary file beside it so that it is whole or absent."""
    shape, tensors = read_shape(model), stored_tensors(model)
    partial = out.with_name(out.name + ".partial")
    writer = gguf.GGUFWriter(partial, architecture)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)
    add_vocabulary(writer, model, shape.vocab)
    for name, dimensions in declared(tensors, shape, architecture):
        wide = len(dimensions) == 1
        kind = gguf.GGMLQuantizationType.F32 if wide else gguf.GGMLQuantizationType.BF16
        dtype = np.dtype(np.float32 if wide else np.uint16)
        nbytes = int(np.prod(dimensions)) * dtype.itemsize
        writer.add_tensor_info(name, dimensions, dtype, nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, data in contents(tensors, shape, architecture):
        writer.write_tensor_data(data)
    writer.close()
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(out)


def main(arguments: list[str]) -> None:
    """Convert the model, file and architecture named on the command line."""
    model, out, architecture = arguments
    if architecture not in ("llama", "qwen3"):
        raise SystemExit(f"no such architecture: {architecture!r}")
    convert(Path(model), Path(out), "llama" if architecture == "llama" else "qwen3")


if __name__ == "__main__":
    main(sys.argv[1:])
