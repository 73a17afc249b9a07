"""Synthetic checkpoints of any shape, in the form that Hugging Face ships."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from statistics import NormalDist
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import numpy as np

from airllm_rs.benchmarks.byte_tokenizer import BYTES, write_byte_tokenizer
from airllm_rs.checkpoint.disk_space import require_space
from airllm_rs.checkpoint.durable import sync_directory, write_json
from airllm_rs.checkpoint.writing import (
    PlannedFile,
    PlannedTensor,
    plan_files,
    write_file,
    write_index,
)
from airllm_rs.errors import AirLLMError
from airllm_rs.families import FAMILIES, family_of, read_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from airllm_rs.families import TensorSpec
    from airllm_rs.stats.progress import Progress

DTYPES = {"bf16": ("BF16", "bfloat16"), "f16": ("F16", "float16"), "f32": ("F32", "float32")}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SPREAD = 0.02
"""Standard deviation of weights, and of norms around 1: what models are initialised with."""

_MAX_POSITIONS = 32768
_LEVELS = 1 << 16
_BLOCK_ITEMS = 1 << 20


@dataclass(frozen=True)
class ModelShape:
    """The shape of a synthetic model, under Hugging Face's names."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int | None = None
    """By default hidden_size ÷ num_attention_heads."""
    dtype: str = "bf16"
    model_type: str = "llama"
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.vocab_size < BYTES:
            raise ValueError(f"vocab is {self.vocab_size}: use {BYTES} or more, one per byte")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}: use {', '.join(DTYPES)}")
        if self.model_type not in FAMILIES:
            raise ValueError(f"model-type is {self.model_type!r}: use {', '.join(FAMILIES)}")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden ({self.hidden_size}) is not a multiple of heads "
                f"({self.num_attention_heads}): change one or give head-dim"
            )

    def to_config(self) -> dict[str, object]:
        """Return the contents of config.json; there is no end token."""
        return {
            "architectures": [ARCHITECTURES[self.model_type]],
            "model_type": self.model_type,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim or self.hidden_size // self.num_attention_heads,
            "vocab_size": self.vocab_size,
            "hidden_act": "silu",
            "max_position_embeddings": _MAX_POSITIONS,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": None,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            "torch_dtype": DTYPES[self.dtype][1],
        }


@dataclass(frozen=True)
class MadeModel:
    """What was written."""

    path: Path
    total_bytes: int
    parameters: int
    files: int


def make_model(out: Path, shape: ModelShape, *, seed: int = 0, progress: Progress) -> MadeModel:
    """Write a checkpoint of random weights to ``out``, which must not exist or be empty.

    The same seed makes the same weights, whatever the dtype.

    Raises:
        AirLLMError: if ``out`` holds something.
        ConfigError: if the shape makes no model.
        NotEnoughSpaceException: if it would not fit on the disk.
    """
    config = shape.to_config()
    parsed = read_config(config)
    code = DTYPES[shape.dtype][0]
    layers = family_of(parsed).layers(parsed)
    specs = {spec.name: spec for layer in layers for spec in layer.tensors}
    tensors = [PlannedTensor(spec.name, code, spec.shape) for spec in specs.values()]
    files = plan_files(tensors)
    order = {name: number for number, name in enumerate(specs)}
    weights, norms = (_normal(code, mean) for mean in (0.0, 1.0))

    def content(tensor: PlannedTensor) -> Iterator[memoryview]:
        table = norms if _is_norm(specs[tensor.name]) else weights
        return _random(tensor, table, (seed, order[tensor.name]))

    with new_directory(out, sum(file.nbytes for file in files)) as partial:
        write_byte_tokenizer(partial, shape.vocab_size)
        write_json(partial / "config.json", config, indent=2)
        write_json(
            partial / "generation_config.json",
            {"bos_token_id": None, "eos_token_id": None, "do_sample": False},
            indent=2,
        )
        return write_weights(out, partial, files, content, progress)


def write_weights(
    out: Path,
    partial: Path,
    files: Sequence[PlannedFile],
    content: Callable[[PlannedTensor], Iterator[memoryview]],
    progress: Progress,
) -> MadeModel:
    """Write the files of weights to ``partial``, and tell about what will be ``out``."""
    total = sum(file.nbytes for file in files)
    with progress.task(f"writing {out.name}", total) as task:
        for file in files:
            write_file(partial, file, content, task.advance)
    write_index(partial, files)
    items = sum(int(np.prod(tensor.shape)) for file in files for tensor in file.tensors)
    return MadeModel(out, total, items, len(files))


@contextmanager
def new_directory(out: Path, nbytes: int) -> Iterator[Path]:
    """Yield a directory that becomes ``out`` if all goes well, and is removed otherwise.

    Args:
        out: What it becomes.
        nbytes: What will be written to it; the disk must have room.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AirLLMError(f"{out} exists: name another directory, or remove it")
    remedy = "free some, or choose another place"
    require_space(out.absolute().parent, nbytes, f"writing {out.name}", remedy)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp keeps its own to the owner
        partial.replace(out)
        sync_directory(out.absolute().parent)
    except BaseException:
        rmtree(partial, ignore_errors=True)
        raise


def _is_norm(spec: TensorSpec) -> bool:
    return len(spec.shape) == 1 and not spec.name.endswith("bias")


def _normal(code: str, mean: float) -> NDArray[np.generic]:
    """Return a normal distribution as a table, in which each entry is as likely as any other."""
    inverse = NormalDist(mean, SPREAD).inv_cdf
    values = np.array([inverse((n + 0.5) / _LEVELS) for n in range(_LEVELS)], np.float32)
    if code == "F32":
        return values
    return values.astype(np.float16) if code == "F16" else to_bf16(values)


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of finite values rounded to bf16, halves to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _random(
    tensor: PlannedTensor, table: NDArray[np.generic], seed: tuple[int, int]
) -> Iterator[memoryview]:
    # drawing from a table: 2 ns an item, a quarter of what numpy's normal distribution takes
    source = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed)))
    left = tensor.nbytes // table.itemsize
    while left:
        count = min(left, _BLOCK_ITEMS)
        chosen = source.integers(0, _LEVELS, count, dtype=np.uint16)
        yield table.take(chosen).data
        left -= count
