"""Small GGUF files, written with the gguf package the way llama.cpp's converter writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import numpy as np

from airllm_rs.benchmarks.byte_tokenizer import byte_characters

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Array = np.ndarray[Any, Any]

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 2, 64, 96, 4, 2, 16
TOKENS = ["<unk>", "<s>", "</s>", "<|turn|>", *byte_characters(), "he", "ll"]
VOCAB = len(TOKENS)
TEMPLATE = "{% for m in messages %}<|turn|>{{ m['content'] }}</s>{% endfor %}"

F32, F16, BF16, Q8_0, Q4_0, Q5_1 = (
    gguf.GGMLQuantizationType[kind] for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1")
)

# As llama.cpp's converter renames them, written down a second time on purpose.
NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Sizes(NamedTuple):
    """How large a model is, apart from its vocabulary."""

    hidden: int = HIDDEN
    inner: int = INNER
    head_dim: int = HEAD_DIM


SMALL = Sizes()
WIDE = Sizes(256, 512, 64)
"""Every matrix has rows of whole blocks of 256."""

# Where the scale of a block of 256 is, and that of its minima: half floats.
_SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108, None),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208, None),
    "IQ4_NL": (0, None),
    "IQ4_XS": (0, None),
}


class Weights(NamedTuple):
    """The tensors of a model, by the checkpoint's names and by GGUF's."""

    original: dict[str, Array]
    file: dict[str, Array]


def random_weights(
    architecture: str,
    *,
    tied: bool = False,
    biases: tuple[str, ...] = (),
    sizes: Sizes = SMALL,
) -> Weights:
    """Return random weights in float32; qwen2 has biases and qwen3 norms per head anyway."""
    generator = np.random.default_rng(0)
    original: dict[str, Array] = {}
    file: dict[str, Array] = {}

    def add(ours: str, theirs: str, *shape: int) -> None:
        tensor = generator.standard_normal(shape, np.float32)
        if len(shape) > 1 and "embed" not in ours:
            sharp = any(part in ours for part in ("q_proj", "k_proj", "head"))
            tensor *= np.float32((3 if sharp else 1) / shape[1] ** 0.5)
        elif theirs.endswith("norm.weight"):
            tensor = 1 + np.float32(0.3) * tensor
        original[ours] = tensor
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(theirs.split(".")[-2])
        file[theirs] = (
            tensor if heads is None or architecture != "llama" else permute(tensor, heads)
        )

    hidden, inner, head_dim = sizes
    queries, keys = HEADS * head_dim, KV_HEADS * head_dim
    rows = {"attn_q": queries, "attn_k": keys, "attn_v": keys, "ffn_gate": inner, "ffn_up": inner}
    columns = {"attn_output": queries, "ffn_down": inner}
    if architecture == "qwen2":
        biases = ("attn_q", "attn_k", "attn_v")
    add("model.embed_tokens.weight", "token_embd.weight", VOCAB, hidden)
    for n in range(LAYERS):
        for part, name in NAMES.items():
            ours, theirs = f"model.layers.{n}.{name}", f"blk.{n}.{part}"
            if part in ("attn_q_norm", "attn_k_norm"):
                if architecture == "qwen3":
                    add(f"{ours}.weight", f"{theirs}.weight", head_dim)
            elif part.endswith("_norm"):
                add(f"{ours}.weight", f"{theirs}.weight", hidden)
            else:
                size = rows.get(part, hidden), columns.get(part, hidden)
                add(f"{ours}.weight", f"{theirs}.weight", *size)
            if part in biases:
                add(f"{ours}.bias", f"{theirs}.bias", rows.get(part, hidden))
    add("model.norm.weight", "output_norm.weight", hidden)
    if not tied:
        add("lm_head.weight", "output.weight", VOCAB, hidden)
    return Weights(original, file)


def permute(rows: Array, heads: int) -> Array:
    """Reorder the rows of each head as llama.cpp's converter does."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def unpermute(rows: Array, heads: int) -> Array:
    """Undo `permute`."""
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def pack(tensor: Array, kind: gguf.GGMLQuantizationType) -> Array:
    """Return blocks of ``tensor``; those of kinds that the package cannot encode are random.

    Random ones have numbers as large as the tensor's, around zero.
    """
    try:
        packed: Array = gguf.quantize(tensor, kind)
    except NotImplementedError:
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        rows, columns = tensor.shape
        generator = np.random.default_rng(rows * columns)
        packed = generator.integers(0, 256, (rows, columns // block, nbytes), np.uint8)
        scale, minimum = _SCALES[kind.name]
        halves = packed.view(np.float16)
        halves[..., scale // 2] = 1
        if minimum is not None:
            halves[..., minimum // 2] = 0
            mean = gguf.dequantize(packed.reshape(rows, -1), kind).mean()
            halves[..., scale // 2], halves[..., minimum // 2] = 0, 1
            mean /= gguf.dequantize(packed.reshape(rows, -1), kind).mean()
            halves[..., scale // 2], halves[..., minimum // 2] = 1, -mean
        factor = tensor.std() / gguf.dequantize(packed.reshape(rows, -1), kind).std()
        halves[..., scale // 2] *= np.float16(factor)
        if minimum is not None:
            halves[..., minimum // 2] *= np.float16(factor)
        packed = packed.reshape(rows, -1)
    return packed


def write_gguf(
    path: Path,
    architecture: str,
    tensors: Mapping[str, Array],
    *,
    kind: gguf.GGMLQuantizationType = F32,
    metadata: Mapping[str, object] | None = None,
    tokenizer: str | None = None,
    sizes: Sizes = SMALL,
) -> Path:
    """Write a file; matrices become ``kind`` if their rows are whole blocks of it.

    Args:
        path: The file.
        architecture: The metadata's ``general.architecture``.
        tensors: By GGUF's names.
        kind: How matrices are stored.
        metadata: Laid over the usual keys, which it also removes (None).
        tokenizer: The metadata's ``tokenizer.ggml.model``; no tokenizer without it.
        sizes: Of the model.
    """
    writer = gguf.GGUFWriter(path, architecture)
    values: dict[str, object] = {
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": 128,
        f"{architecture}.embedding_length": sizes.hidden,
        f"{architecture}.feed_forward_length": sizes.inner,
        f"{architecture}.attention.head_count": HEADS,
        f"{architecture}.attention.head_count_kv": KV_HEADS,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{architecture}.rope.freq_base": 50000.0,
        f"{architecture}.rope.dimension_count": sizes.head_dim,
        f"{architecture}.vocab_size": VOCAB,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }
    if tokenizer is not None:
        values["tokenizer.ggml.model"] = tokenizer
        values["tokenizer.ggml.pre"] = "default"
        values["tokenizer.ggml.tokens"] = TOKENS
        values["tokenizer.ggml.token_type"] = [3, 3, 3, 3] + [1] * (VOCAB - 4)
        values["tokenizer.ggml.merges"] = ["h e", "l l"]
        values["tokenizer.ggml.unknown_token_id"] = 0
        values["tokenizer.ggml.add_bos_token"] = True
        values["tokenizer.chat_template"] = TEMPLATE
    for key, value in {**values, **(metadata or {})}.items():
        _add(writer, key, value)
    block_size, _ = gguf.GGML_QUANT_SIZES[kind]
    for name, tensor in tensors.items():
        if tensor.dtype == np.uint8:  # blocks, made elsewhere
            writer.add_tensor(name, tensor, raw_dtype=kind)
        elif tensor.ndim == 1 or tensor.dtype != np.float32 or tensor.shape[1] % block_size:
            writer.add_tensor(name, tensor)
        else:
            writer.add_tensor(name, pack(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            assert value is None, f"{key}: {value!r}"
