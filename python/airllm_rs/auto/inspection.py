"""What a checkpoint is: architecture, layers, tensors, sizes, dtype. No weight is read."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.auto.bridging import read_any_config, understand
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.checkpoint.opening import HEAD
from airllm_rs.checkpoint.packed import method_of
from airllm_rs.errors import UnsupportedModelError
from airllm_rs.families.bridged import BridgedFamily
from airllm_rs.memory import PlanLimits
from airllm_rs.memory.arithmetic import ITEM_BYTES, compute_dtype, has_bf16_arithmetic
from airllm_rs.memory.units import build_units
from airllm_rs.stats import choose_progress
from airllm_rs.store.manifest import has_copied_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from os import PathLike

    from airllm_rs.checkpoint import ModelFiles, TensorInfo
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family

# `model.layers.3.mlp.up_proj.weight` is of layer `layers.3`, as `transformer.h.3.…` is of `h.3`.
_NUMBERED = re.compile(r"(?:^|\.)([A-Za-z_]+\.\d+)\.")


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """A tensor of the checkpoint."""

    name: str
    dtype: str
    """safetensors' code, such as ``BF16``, or how it is packed, such as ``Q4_K``."""
    shape: list[int]
    """Of the weight, however it is packed."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class LayerDescription:
    """What is run as one step of a sweep."""

    name: str
    kind: str
    """``embedding``, ``decoder``, ``norm``, ``head``, or ``other``."""
    nbytes: int
    tensors: list[TensorDescription]
    """In order of use; the head of a tied model is the embedding table."""
    window: int | None
    """How many of the latest keys a query sees; None if all."""


@dataclass(frozen=True, slots=True)
class QuantizationDescription:
    """How weights are packed."""

    method: str | None
    """What config.json calls it; None if it says nothing."""
    schemes: dict[str, int]
    """How many weights are packed in which way, as they were found."""


@dataclass(frozen=True, slots=True)
class UnitDescription:
    """What is read at once."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class FileDescription:
    """A file that holds tensors."""

    path: str
    nbytes: int


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is, under the names that `inspect --json` prints; None is not known."""

    path: str
    """A directory, or the first .gguf file."""
    model_type: str | None
    architecture: str | None
    native: bool
    """Whether layers of ours run it."""
    bridged: bool
    """Whether transformers' own layers run it, with the weights that we bring."""
    refusal: str | None
    """Why it does not run; None if it does."""
    by_chunk: str | None
    """Why several chunks of a prompt need a sweep each; None if they share one."""
    num_layers: int | None
    """Decoder layers."""
    hidden_size: int | None
    intermediate_size: int | None
    num_attention_heads: int | None
    num_key_value_heads: int | None
    head_dim: int | None
    vocab_size: int | None
    max_position_embeddings: int | None
    sliding_window: int | None
    tied: bool | None
    """Whether the head is the embedding table."""
    parameters: int | None
    """A head that a store has made of the embedding table is left out."""
    total_bytes: int
    """What is run, each tensor once."""
    dtype: str
    """The dtype that most bytes have; of a quantised model, of what is not packed."""
    quantization: QuantizationDescription | None
    """None if no weight is packed."""
    compute_dtype: str | None
    """What it is computed in on this machine unless asked otherwise."""
    kv_bytes_per_token: int | None
    """In all layers together, in that dtype."""
    num_units: int | None
    """How many reads of a matrix, a block of one or some small tensors it is cut into."""
    largest_unit: UnitDescription | None
    misaligned_tensors: list[str]
    """Not at a multiple of their item size in the file: moved into place after arrival."""
    unused_tensors: list[str] | None
    """In the files, and no part of the model."""
    files: list[FileDescription]
    layers: list[LayerDescription]


def inspect(
    path: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    local_files_only: bool = False,
    hf_token: str | None = None,
    config_overrides: Mapping[str, object] | None = None,
    progress: bool | None = None,
) -> dict[str, object]:
    """Return what `airllm-rs inspect --json` prints.

    A checkpoint of a kind that does not run here is described too, as far as it can be without
    knowing what its tensors mean: ``native`` is false, ``refusal`` says why, and what is not known
    is None.

    Args:
        path: A directory, a hub id or a ``.gguf`` file.
        revision: Branch, tag or commit of a hub id.
        cache_dir: Where the hub's files are cached; its own default if None.
        local_files_only: Download nothing.
        hf_token: For private repositories of the hub.
        config_overrides: Keys of config.json laid over what the file says.
        progress: None for bars on a terminal and log lines elsewhere, True or False.

    Raises:
        CheckpointError: if it is no checkpoint, or tensors are missing or of a wrong shape.
        ConfigError: if config.json makes no sense.
        OSError: if a file cannot be read.
    """
    files = open_checkpoint(
        path,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=hf_token,
        progress=choose_progress(progress),
    )
    return asdict(describe(files, config_overrides))


def describe(files: ModelFiles, config_overrides: Mapping[str, object] | None = None) -> Inspection:
    """Return what an opened checkpoint is; raises what `inspect` does."""
    try:
        config = read_any_config(files.config, config_overrides)
        arithmetic = compute_dtype(files.main_dtype, bf16_arithmetic=has_bf16_arithmetic())
        config, family, unused = understand(config, files, arithmetic)
    except UnsupportedModelError as error:
        return _foreign(files, str(error))
    return _known(files, config, family, unused)


def _known(files: ModelFiles, config: ModelConfig, family: Family, unused: list[str]) -> Inspection:
    layers = family.layers(config)
    table = build_units(layers, files, PlanLimits(), tied=config.tie_word_embeddings)
    largest = max(table.units, key=lambda unit: unit.nbytes)
    names = dict.fromkeys(spec.name for layer in layers for spec in layer.tensors)
    weights = [files.stored(name) for name in names]
    copies = (HEAD,) if has_copied_head(files.path) else ()
    arithmetic = compute_dtype(files.main_dtype, bf16_arithmetic=has_bf16_arithmetic())
    is_bridged = isinstance(family, BridgedFamily)
    decoders = sum(layer.kind == "decoder" for layer in layers)
    # some layers may keep no keys and values; which, the windows alone do not say
    windows = iter(config.windows if len(config.windows) == decoders else (None,) * decoders)
    return Inspection(
        path=_path(files),
        model_type=config.model_type,
        architecture=_architecture(files),
        native=not is_bridged,
        bridged=is_bridged,
        refusal=None,
        by_chunk=(family.why_by_chunk or None) if isinstance(family, BridgedFamily) else None,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        sliding_window=config.sliding_window,
        tied=config.tie_word_embeddings,
        parameters=sum(prod(weight.shape) for weight in weights if weight.name not in copies),
        total_bytes=sum(weight.nbytes for weight in weights),
        dtype=files.main_dtype,
        quantization=_quantization(files),
        compute_dtype=arithmetic,
        kv_bytes_per_token=family.kv_bytes_per_token(config, ITEM_BYTES[arithmetic]),
        num_units=len(table.units),
        largest_unit=UnitDescription(largest.name, largest.nbytes),
        misaligned_tensors=[
            part.tensor for weight in weights for part in weight.parts if _is_misaligned(part.info)
        ],
        unused_tensors=unused,
        files=_files(files),
        layers=[
            _layer(
                files,
                layer.name,
                layer.kind,
                (spec.name for spec in layer.tensors),
                window=next(windows) if layer.kind == "decoder" else None,
            )
            for layer in layers
        ],
    )


def _foreign(files: ModelFiles, refusal: str) -> Inspection:
    infos = [files.tensor(name) for name in files.names()]  # what is packed need not be known

    def count(key: str) -> int | None:
        value = files.config.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    model_type = files.config.get("model_type")
    return Inspection(
        path=_path(files),
        model_type=model_type if isinstance(model_type, str) else None,
        architecture=_architecture(files),
        native=False,
        bridged=False,
        refusal=refusal,
        by_chunk=None,
        num_layers=count("num_hidden_layers"),
        hidden_size=count("hidden_size"),
        intermediate_size=count("intermediate_size"),
        num_attention_heads=count("num_attention_heads"),
        num_key_value_heads=count("num_key_value_heads"),
        head_dim=count("head_dim"),
        vocab_size=count("vocab_size"),
        max_position_embeddings=count("max_position_embeddings"),
        sliding_window=count("sliding_window"),
        tied=None,
        parameters=None,  # items of quantised tensors are not parameters
        total_bytes=sum(info.nbytes for info in infos),
        dtype=files.main_dtype,
        quantization=_quantization(files),
        compute_dtype=None,
        kv_bytes_per_token=None,
        num_units=None,
        largest_unit=None,
        misaligned_tensors=[n for n in files.names() if _is_misaligned(files.tensor(n))],
        unused_tensors=None,
        files=_files(files),
        layers=_layers_by_name(files),
    )


def _layers_by_name(files: ModelFiles) -> list[LayerDescription]:
    """Group tensors by the numbered part of their names, in the order of the files."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in files.weight_names():
        numbered = _NUMBERED.search(name)
        if numbered:
            groups.setdefault((numbered[1], "decoder"), []).append(name)
        else:
            groups.setdefault((name.rpartition(".")[0] or name, "other"), []).append(name)
    return [_layer(files, *key, names, window=None) for key, names in groups.items()]


def _layer(
    files: ModelFiles, name: str, kind: str, tensors: Iterable[str], *, window: int | None
) -> LayerDescription:
    described = [
        TensorDescription(weight.name, weight.dtype, list(weight.shape), weight.nbytes)
        for weight in map(files.stored, tensors)
    ]
    nbytes = sum(tensor.nbytes for tensor in described)
    return LayerDescription(name, kind, nbytes, described, window)


def _path(files: ModelFiles) -> str:
    first = files.files[0] if files.files else ""
    # its directory has what was made of its metadata
    return first if first.endswith(".gguf") else str(files.path)


def _architecture(files: ModelFiles) -> str | None:
    listed = files.config.get("architectures")
    return str(listed[0]) if isinstance(listed, list) and listed else None


def _quantization(files: ModelFiles) -> QuantizationDescription | None:
    method = method_of(files.config)
    if method is None and not files.packed:
        return None
    return QuantizationDescription(method, files.schemes)


def _files(files: ModelFiles) -> list[FileDescription]:
    return [FileDescription(file, Path(file).stat().st_size) for file in files.files]


def _is_misaligned(info: TensorInfo) -> bool:
    return bool(info.offset % max(info.nbytes // max(prod(info.shape), 1), 1))
