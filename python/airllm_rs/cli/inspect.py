"""`airllm-rs inspect`: what a checkpoint is."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from airllm_rs.auto.description import Inspection, LayerDescription, TensorDescription
from airllm_rs.auto.inspection import describe
from airllm_rs.auto.opening import find_files
from airllm_rs.auto.options import LoadOptions
from airllm_rs.checkpoint.collection import paused_collection
from airllm_rs.cli.options import JsonFlag, ModelArgument, QuietFlag, opening_options, takes
from airllm_rs.cli.output import millions, pairs, print_json, print_table, show_log
from airllm_rs.memory import format_bytes
from airllm_rs.stats import choose_progress

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = 3
_POSITIONS = {"rope": "RoPE", "alibi": "ALiBi"}
_ATTENTION = {"full": "all", "latent": "all, from a latent"}
_EXPERT = re.compile(r"(?<=experts\.)(\d+)(?=\.)|\[(\d+)\]$")


@takes(opening_options)
def inspect(
    model: ModelArgument,
    options: LoadOptions,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show what a checkpoint is: architecture, layers, tensors, sizes, dtype."""
    show_log(quiet=quiet)
    options = replace(options, may_make=False)
    with paused_collection():
        files = find_files(model, options, choose_progress(options.progress))
        found = describe(files, options.config_overrides)
    if as_json:
        print_json(found.to_json())
        return
    print_table(pairs(_summary(found)))
    print_table(_layers(found.layers))


def _summary(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "path", found.path
    yield "model", f"{found.architecture or 'unknown'} (model_type {found.model_type})"
    if found.bridged:
        yield "runs here", "through transformers' own layers"
    if found.by_chunk is not None:
        yield "long prompts", f"a sweep for each chunk: {found.by_chunk}"
    if found.refusal is not None:
        yield "runs here", f"no: {found.refusal}"
    if not found.is_local:
        yield "weights", "on the hub: only headers were fetched"
    of = f" in {len(found.files)} files" if len(found.files) > 1 else " in one file"
    parameters = f"{millions(found.parameters)} parameters, " if found.parameters else ""
    is_packed = found.quantization is not None and bool(found.quantization.schemes)
    dtype = f", what is not packed of {found.dtype}," if is_packed else f" of {found.dtype}"
    yield "size", f"{parameters}{format_bytes(found.total_bytes)}{dtype}{of}"
    if found.quantization is not None:
        schemes = [f"{count} as {name}" for name, count in found.quantization.schemes.items()]
        packed = f"weights packed: {', '.join(schemes)}" if schemes else "no weight is recognised"
        yield "quantised", f"{found.quantization.method or 'per tensor'} ({packed})"
    yield "decoder layers", _text(found.num_layers)
    yield "hidden, intermediate", f"{_text(found.hidden_size)}, {_text(found.intermediate_size)}"
    yield "query heads", f"{_text(found.num_attention_heads)} of {_text(found.head_dim)}"
    yield "key and value heads", _text(found.num_key_value_heads)
    tied = ", the head is the embedding table" if found.tied else ""
    yield "vocabulary", f"{_text(found.vocab_size)}{tied}"
    sliding = [layer for layer in found.layers if layer.window is not None]
    window = f", {len(sliding)} layers see {found.sliding_window}" if sliding else ""
    yield "context", f"{_text(found.max_position_embeddings)} tokens{window}"
    if found.positions is not None:
        scaled = f" ({found.rope_type})" if found.rope_type not in (None, "default") else ""
        yield "positions", f"{_POSITIONS.get(found.positions, found.positions)}{scaled}"
    yield from _experts(found.layers)
    if found.kv_bytes_per_token is not None:
        computed = f" ({found.compute_dtype} on this machine)"
        yield "KV cache", f"{format_bytes(found.kv_bytes_per_token)} per token{computed}"
    if found.largest_unit is not None:
        largest = f"{format_bytes(found.largest_unit.nbytes)} ({found.largest_unit.name})"
        yield "read in", f"{found.num_units} units, the largest {largest}"
    if found.misaligned_tensors:
        yield "misaligned", f"{_some(found.misaligned_tensors)}: moved into place after arrival"
    for rule, names in (found.ignored_tensors or {}).items():
        yield "ignored", f"{_some(names)}: {rule}"
    if found.unused_tensors:
        yield "unused", f"{_some(found.unused_tensors)}: no rule knows them"


def _experts(layers: Sequence[LayerDescription]) -> Iterator[tuple[str, str]]:
    sparse = [layer.experts for layer in layers if layer.experts is not None]
    if not sparse:
        return
    decoders = sum(layer.kind == "decoder" for layer in layers)
    for experts, group in groupby(sparse):
        number = len(list(group))
        shared = f", {format_bytes(experts.shared_nbytes)} shared" if experts.shared_nbytes else ""
        each = f"of {experts.count} in each of {number} of {decoders} layers"
        yield (
            "experts",
            f"{_text(experts.per_token)} {each}, {format_bytes(experts.nbytes)} each{shared}",
        )


def _layers(layers: Sequence[LayerDescription]) -> "Table":
    """Return a table in which equal layers in a row share their lines."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("layer", "left"), ("bytes", "right"), ("attention", "left"),
        ("tensor", "left"), ("dtype", "left"), ("shape", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify, no_wrap=heading != "tensor")  # type: ignore[arg-type]
    for _, group in groupby(layers, key=_kind):
        same = list(group)
        first = same[0]
        name = first.name
        if len(same) > 1:
            name += f" … {same[-1].name.rpartition('.')[2]} ({len(same)})"
        attention = ""
        if first.kind == "decoder":
            attention = _ATTENTION.get(first.attention or "full", f"latest {first.window}")
        cells = [name, format_bytes(first.nbytes), attention]
        for inner, tensor in _rows(first):
            shape = ", ".join(map(str, tensor.shape))
            table.add_row(*cells, inner, tensor.dtype, shape)
            cells = ["", "", ""]
    return table


def _rows(layer: LayerDescription) -> list[tuple[str, TensorDescription]]:
    """Return the tensors of a layer by name, those of equal experts in one line."""
    numbers: dict[tuple[object, ...], list[str]] = {}
    rows: dict[tuple[object, ...], tuple[str, TensorDescription]] = {}
    for tensor in layer.tensors:
        inner = _inner(layer, tensor.name)
        found = _EXPERT.search(inner)
        key = (_EXPERT.sub("N", inner), tensor.dtype, tuple(tensor.shape))
        rows.setdefault(key, (inner, tensor))
        if found is not None:
            numbers.setdefault(key, []).append(found[1] or found[2])
    told = []
    for row, (inner, tensor) in rows.items():
        same = numbers.get(row, [])
        if len(same) > 1:
            span = f"{same[0]} … {same[-1]}"
            inner = _EXPERT.sub(f"[{span}]" if inner.endswith("]") else span, inner)
        told.append((inner, tensor))
    return told


def _kind(layer: LayerDescription) -> object:
    """Return what layers that share their lines have in common."""
    tensors = [(_inner(layer, t.name), t.dtype, t.shape) for t in layer.tensors]
    return layer.kind, layer.window, tensors if layer.kind == "decoder" else layer.name


def _inner(layer: LayerDescription, tensor: str) -> str:
    """Return the name of a tensor within its layer."""
    _, found, inner = tensor.partition(f"{layer.name}.")
    return inner if found else tensor


def _text(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    tensors = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {tensors}: {', '.join(names[:_SHOWN])}{more}"
