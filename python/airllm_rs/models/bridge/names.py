"""Which tensors of a checkpoint become which parameters, by transformers' own rules."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from airllm_rs.errors import CheckpointError, UnsupportedModelError
from airllm_rs.families.validation import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from airllm_rs.families.validation import NamedWeights
    from airllm_rs.models.bridge.skeleton import Skeleton

_SHOWN = 3
_BUFFER_DTYPES = ("I64", "I32", "I16", "I8", "U8", "BOOL")


@dataclass(frozen=True, eq=False)
class Origin:
    """Tensors of the checkpoint, and the parameters that are made of them together."""

    sources: tuple[tuple[str, str], ...]
    """(pattern of a rule, name in the checkpoint), in the order in which rules take them."""
    converter: WeightConverter | None
    """None if the one source is the one parameter."""
    first: str
    """The parameter that rules name the result by."""
    targets: tuple[str, ...]
    """The parameters, by their names in memory."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sources."""
        return tuple(name for _, name in self.sources)

    def convert(
        self, tensors: Callable[[str], Tensor], model: torch.nn.Module
    ) -> dict[str, Tensor]:
        """Return the parameters, by name.

        Args:
            tensors: Returns a source by its name; called once for each, in order.
            model: The model, whose shapes some rules look at.
        """
        if self.converter is None:
            return {self.first: tensors(self.names[0])}
        converter = deepcopy(self.converter)
        for pattern, name in self.sources:
            converter.add_tensor(self.first, name, pattern, _Later(tensors, name))  # type: ignore[arg-type]
        made = converter.convert(self.first, model=model, config=model.config)
        return {
            name: found[0] if isinstance(found, list) else found for name, found in made.items()
        }


@dataclass(frozen=True, slots=True)
class _Later:
    tensors: Callable[[str], Tensor]
    name: str

    def __call__(self) -> Tensor:
        return self.tensors(self.name)


@dataclass(frozen=True)
class Names:
    """A checkpoint's tensors, sorted out."""

    origins: Mapping[str, Origin] = field(repr=False)
    """By the name of the parameter or buffer in memory; one of each that share a tensor."""
    left_out: tuple[str, ...]
    """Tensors of parts that do not run, and such as old checkpoints carry for nothing."""
    unused: tuple[str, ...]
    """Tensors that no rule knows."""


def resolve(skeleton: Skeleton, files: NamedWeights, needed: Iterable[str]) -> Names:
    """Find what each parameter of ``needed`` is made of, and check that it fits.

    Raises:
        CheckpointError: naming tensors that are missing, or one of a wrong shape.
        UnsupportedModelError: naming a tensor whose dtype cannot be computed with.
    """
    model = skeleton.model
    wanted = set(needed)
    shapes = dict(model.state_dict(keep_vars=True))
    grouped, strange = _grouped(skeleton, files.weight_names(), shapes)
    origins: dict[str, Origin] = {}
    for origin in grouped:
        origins |= dict.fromkeys(_checked(origin, model, shapes, files).targets, origin)
    missing = _missing(skeleton, wanted, origins)
    patterns = _patterns(model, "_keys_to_ignore_on_load_unexpected")
    patterns += [r"rotary_emb\.inv_freq", r"(^|\.)position_ids$", r"\.masked_bias$", r"attn\.bias$"]
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    used = {name for target in wanted for name in _names_of(target, origins)}
    left_out = [n for o in grouped for n in o.names if n not in used]
    text = f"{model.base_model_prefix}." if skeleton.is_part else ""
    others = [n for n, renamed in strange if ignored.search(renamed) or not n.startswith(text)]
    left_out += others
    unused = [name for name, _ in strange if name not in set(others)]
    if missing:
        beside = f" (it has {_some(unused)} instead)" if unused else ""
        raise CheckpointError(f"the checkpoint lacks {_some(missing)}{beside}")
    kept = {name: origin for name, origin in origins.items() if name in wanted}
    return Names(kept, tuple(dict.fromkeys(left_out)), tuple(unused))


def _names_of(target: str, origins: Mapping[str, Origin]) -> tuple[str, ...]:
    origin = origins.get(target)
    return origin.names if origin is not None else ()


def _grouped(
    skeleton: Skeleton, names: Sequence[str], shapes: Mapping[str, Tensor]
) -> tuple[list[Origin], list[tuple[str, str]]]:
    """Sort names into what becomes one or several parameters, and those that become none."""
    model = skeleton.model
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
    prefix = model.base_model_prefix
    found: dict[str, tuple[WeightConverter | None, list[tuple[str, str]]]] = {}
    strange = []
    for name in sorted(names, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters, prefix, shapes)  # type: ignore[arg-type]
        if renamed not in shapes and name in shapes:
            renamed, pattern = rename_source_key(name, [], [], prefix, shapes)  # type: ignore[arg-type]
        if renamed not in shapes:
            strange.append((name, renamed))
            continue
        converter = None if pattern is None else by_pattern[pattern]
        entry = found.setdefault(renamed, (converter, []))
        entry[1].append((pattern or name, name))
    origins = []
    for first, (converter, sources) in found.items():
        # rules take all that one pattern matches, then all of the next
        patterns = list(dict.fromkeys(pattern for pattern, _ in sources))
        ordered = sorted(sources, key=lambda source: patterns.index(source[0]))
        origins.append(Origin(tuple(ordered), converter, first, (first,)))
    return origins, strange


def _checked(
    origin: Origin,
    model: torch.nn.Module,
    shapes: Mapping[str, Tensor],
    files: NamedWeights,
) -> Origin:
    """Return the origin with all that is made of it, once shapes were seen to fit."""
    is_buffer = origin.converter is None and not isinstance(
        shapes[origin.first], torch.nn.Parameter
    )
    for name in origin.names:
        stored = files.stored(name)
        known = (*DTYPES, *_BUFFER_DTYPES) if is_buffer else DTYPES
        if stored.layout is None and stored.dtype not in known:
            raise UnsupportedModelError(
                f"{name} is stored as {stored.dtype}, which cannot be computed with; "
                f"can be: {', '.join(DTYPES)}"
            )

    def empty(name: str) -> Tensor:
        return torch.empty(files.stored(name).shape, dtype=torch.float32, device="meta")

    where = _some(origin.names)
    try:
        made = origin.convert(empty, model)
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{where} cannot be made into {origin.first}: {line}") from error
    for target, tensor in made.items():
        if target not in shapes:
            raise CheckpointError(f"{where} would be {target}, which the model does not have")
        expected = list(shapes[target].shape)
        if list(tensor.shape) != expected:
            becomes = "has" if origin.converter is None else f"(as {target}) has"
            raise CheckpointError(
                f"{where} {becomes} shape {list(tensor.shape)}, expected {expected} "
                "from config.json"
            )
    return Origin(origin.sources, origin.converter, origin.first, tuple(made))


def _missing(skeleton: Skeleton, wanted: set[str], origins: dict[str, Origin]) -> list[str]:
    """Fill in what is tied to something found, and return what is not there at all."""
    model = skeleton.model
    optional = re.compile("|".join(_patterns(model, "_keys_to_ignore_on_load_missing")) or "(?!)")
    tied = dict(model.all_tied_weights_keys)
    partners: dict[str, set[str]] = {}
    for target, source in tied.items():
        group = {target, source} | partners.get(source, set()) | partners.get(target, set())
        for name in group:
            partners[name] = group
    missing = []
    for name in sorted(wanted, key=dot_natural_key):
        if name in origins:
            continue
        other = next((n for n in sorted(partners.get(name, ())) if n in origins), None)
        if other is not None:
            origins[name] = origins[other]
        elif not optional.search(name):
            missing.append(name)
    return missing


def _patterns(model: torch.nn.Module, attribute: str) -> list[str]:
    return list(getattr(model, attribute, None) or ())


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
