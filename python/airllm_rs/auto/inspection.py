"""What a checkpoint is: architecture, layers, tensors, sizes, dtype. No weight is read."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

from airllm_rs.auto.bridging import read_any_config, understand
from airllm_rs.auto.description import (
    ExpertsDescription,
    FileDescription,
    Inspection,
    LayerDescription,
    NearestDescription,
    QuantizationDescription,
    TensorDescription,
    UnitDescription,
)
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.checkpoint.collection import paused_collection
from airllm_rs.checkpoint.model_files import HEAD
from airllm_rs.checkpoint.packed import method_of
from airllm_rs.checkpoint.stored import whole_name
from airllm_rs.errors import UnknownModelError, UnsupportedModelError
from airllm_rs.families import FAMILIES, nearest_family, unknown_model
from airllm_rs.families.bridged import BridgedFamily
from airllm_rs.memory import PlanLimits
from airllm_rs.memory.arithmetic import ITEM_BYTES, compute_dtype, has_bf16_arithmetic
from airllm_rs.memory.units import build_units
from airllm_rs.stats import choose_progress
from airllm_rs.store.manifest import has_copied_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from os import PathLike

    from airllm_rs.checkpoint import ModelFiles, StoredWeight, TensorInfo
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family, Layer
    from airllm_rs.memory.units import UnitTable

# `model.layers.3.mlp.up_proj.weight` is of layer `layers.3`, as `transformer.h.3.…` is of `h.3`.
_NUMBERED = re.compile(r"(?:^|\.)([A-Za-z_]+\.\d+)\.")
_SHARED = ".shared_expert"


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

    Of a hub id whose weights are not here, only headers are fetched.

    Args:
        path: A directory, a ``.safetensors`` or ``.gguf`` file, a hub id, or a hub id and the
            quantisation of a GGUF file there, as in ``someone/model-GGUF:Q4_K_M``.
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
    with paused_collection():
        files = open_checkpoint(
            path,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=hf_token,
            headers_only=True,
            progress=choose_progress(progress),
        )
        return describe(files, config_overrides).to_json()


def describe(files: ModelFiles, config_overrides: Mapping[str, object] | None = None) -> Inspection:
    """Return what an opened checkpoint is; raises what `inspect` does."""
    try:
        config = read_any_config(files.config, config_overrides)
        arithmetic = compute_dtype(files.main_dtype, bf16_arithmetic=has_bf16_arithmetic())
        config, family, unused = understand(config, files, arithmetic)
    except UnknownModelError:
        return _foreign(files, str(unknown_model(files.config, files.weight_names())))
    except UnsupportedModelError as error:
        return _foreign(files, str(error))
    return _known(files, config, family, unused)


def _known(files: ModelFiles, config: ModelConfig, family: Family, unused: list[str]) -> Inspection:
    layers = family.layers(config)
    table = build_units(layers, files, PlanLimits(), tied=config.tie_word_embeddings)
    largest = max(table.units, key=lambda unit: unit.nbytes)
    names = dict.fromkeys(spec.name for layer in layers for spec in layer.tensors)
    stored = {name: files.stored(name) for name in names}
    weights = list(stored.values())
    copies = (HEAD,) if has_copied_head(files.path) else ()
    dtype = files.main_dtype
    arithmetic = compute_dtype(dtype, bf16_arithmetic=has_bf16_arithmetic())
    is_bridged = isinstance(family, BridgedFamily)
    positions = None if is_bridged else family.positions(config)
    return Inspection(
        path=_path(files),
        is_local=files.is_local,
        model_type=config.model_type,
        architecture=_architecture(files),
        native=not is_bridged,
        bridged=is_bridged,
        refusal=None,
        by_chunk=(family.why_by_chunk or None) if isinstance(family, BridgedFamily) else None,
        nearest=None,
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        sliding_window=config.sliding_window,
        positions=positions,
        rope_type=str(config.rope_parameters["rope_type"]) if positions == "rope" else None,
        tied=config.tie_word_embeddings,
        parameters=sum(prod(weight.shape) for weight in weights if weight.name not in copies),
        total_bytes=sum(weight.nbytes for weight in weights),
        dtype=dtype,
        quantization=_quantization(files),
        compute_dtype=arithmetic,
        kv_bytes_per_token=family.kv_bytes_per_token(config, ITEM_BYTES[arithmetic]),
        num_units=len(table.units),
        largest_unit=UnitDescription(largest.name, largest.nbytes),
        misaligned_tensors=[
            part.tensor for weight in weights for part in weight.parts if _is_misaligned(part.info)
        ],
        ignored_tensors=_ignored(files, config, family, set(stored) | set(unused)),
        unused_tensors=unused,
        files=_files(files),
        layers=_layers(config, family, table, stored, ITEM_BYTES[arithmetic]),
    )


def _ignored(
    files: ModelFiles, config: ModelConfig, family: Family, known: set[str]
) -> dict[str, list[str]]:
    used = {whole_name(name) for name in known}
    found: dict[str, list[str]] = {}
    for name in files.weight_names():
        if name not in used:
            rule = family.rule_for(name, config)
            assert rule is not None, "what no rule knows is unused"
            found.setdefault(rule, []).append(name)
    return found


def _layers(
    config: ModelConfig,
    family: Family,
    table: UnitTable,
    stored: Mapping[str, StoredWeight],
    item_bytes: int,
) -> list[LayerDescription]:
    units: list[list[UnitDescription]] = [[] for _ in table.layers]
    for unit in table.units:
        units[unit.layer].append(UnitDescription(unit.name, unit.nbytes))
    per_token = config.keys.optional_count("num_experts_per_tok")
    kv_bytes = family.kv_bytes_per_layer(config, item_bytes)
    # some layers may keep no keys and values; which, the windows alone do not say
    count = sum(layer.kind == "decoder" for layer in table.layers)
    windows = config.windows if len(config.windows) == count else (None,) * count
    described, decoders = [], 0
    for number, layer in enumerate(table.layers):
        tensors = [_tensor(stored[spec.name]) for spec in layer.tensors]
        is_decoder = layer.kind == "decoder"
        described.append(
            LayerDescription(
                name=layer.name,
                kind=layer.kind,
                nbytes=sum(tensor.nbytes for tensor in tensors),
                tensors=tensors,
                window=windows[decoders] if is_decoder else None,
                attention=family.attention(config, decoders) if is_decoder else None,
                kv_bytes_per_token=kv_bytes if is_decoder else None,
                experts=_experts(layer, tensors, per_token) if is_decoder else None,
                units=units[number],
            )
        )
        decoders += is_decoder
    return described


def _experts(
    layer: Layer, tensors: list[TensorDescription], per_token: int | None
) -> ExpertsDescription | None:
    nbytes: dict[str, int] = {}
    shared = 0
    for spec, tensor in zip(layer.tensors, tensors, strict=True):
        _, is_one, rest = spec.parameter.partition(".experts.")
        if is_one:
            number = rest.partition(".")[0]
            nbytes[number] = nbytes.get(number, 0) + tensor.nbytes
        elif _SHARED in spec.parameter:
            shared += tensor.nbytes
    if not nbytes:
        return None
    return ExpertsDescription(len(nbytes), per_token, max(nbytes.values()), shared)


def _foreign(files: ModelFiles, refusal: str) -> Inspection:
    infos = [files.tensor(name) for name in files.names()]  # what is packed need not be known

    def count(key: str) -> int | None:
        value = files.config.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    model_type = files.config.get("model_type")
    return Inspection(
        path=_path(files),
        is_local=files.is_local,
        model_type=model_type if isinstance(model_type, str) else None,
        architecture=_architecture(files),
        native=False,
        bridged=False,
        refusal=refusal,
        by_chunk=None,
        nearest=_nearest(files),
        num_layers=count("num_hidden_layers"),
        hidden_size=count("hidden_size"),
        intermediate_size=count("intermediate_size"),
        num_attention_heads=count("num_attention_heads"),
        num_key_value_heads=count("num_key_value_heads"),
        head_dim=count("head_dim"),
        vocab_size=count("vocab_size"),
        max_position_embeddings=count("max_position_embeddings"),
        sliding_window=count("sliding_window"),
        positions=None,
        rope_type=None,
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
        ignored_tensors=None,
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
    return [_named_layer(files, *key, names) for key, names in groups.items()]


def _named_layer(
    files: ModelFiles, name: str, kind: str, tensors: Iterable[str]
) -> LayerDescription:
    described = [_tensor(files.stored(tensor)) for tensor in tensors]
    return LayerDescription(
        name=name,
        kind=kind,
        nbytes=sum(tensor.nbytes for tensor in described),
        tensors=described,
        window=None,
        attention=None,
        kv_bytes_per_token=None,
        experts=None,
        units=[],
    )


def _tensor(weight: StoredWeight) -> TensorDescription:
    return TensorDescription(weight.name, weight.dtype, list(weight.shape), weight.nbytes)


def _nearest(files: ModelFiles) -> NearestDescription | None:
    model_type = files.config.get("model_type")
    if model_type in FAMILIES:
        return None
    found = nearest_family(str(model_type), files.weight_names(), FAMILIES)
    return None if found is None else NearestDescription(found.model_type, found.similarity)


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
    return [
        FileDescription(file, nbytes) for file, nbytes in zip(files.files, files.sizes, strict=True)
    ]


def _is_misaligned(info: TensorInfo) -> bool:
    # no dtype has items of more than 8 bytes
    return bool(info.offset % 8 and info.offset % max(info.nbytes // max(prod(info.shape), 1), 1))
