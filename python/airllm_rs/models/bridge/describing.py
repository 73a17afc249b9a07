"""From a skeleton and the names in a checkpoint to what the planner and `inspect` need."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.cache_utils import CacheLayerMixin

from airllm_rs.errors import UnsupportedModelError
from airllm_rs.families.bridged import BridgedConfig, BridgedFamily
from airllm_rs.families.family import Layer, Placement, TensorSpec
from airllm_rs.models.bridge.conducting import Conductor
from airllm_rs.models.bridge.names import Names, Origin, resolve
from airllm_rs.models.bridge.skeleton import Skeleton, build_skeleton
from airllm_rs.models.bridge.tracing import TOKENS, Trace, tensors_in, trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedConfig

    from airllm_rs.families.validation import NamedWeights

LOOKED_UP_NUMBERS = 32 << 20
"""A further table of more numbers than this is looked up on disk, row by row, and never kept."""

# Rotary frequencies that depend on how long the sequence of one call is.
_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True, eq=False)
class Bridged:
    """A model of transformers and where its parameters come from."""

    skeleton: Skeleton
    conductor: Conductor
    names: Names
    parameters: dict[int, str]
    """By ``id``, one name for each parameter that runs."""
    looked_up: frozenset[str]
    """Parameters whose rows are read from disk."""
    trace: Trace

    def is_whole(self, name: str) -> bool:
        """Tell whether a parameter is one tensor of the checkpoint as it lies."""
        return self.names.origins[name].converter is None


def bridge(config: BridgedConfig, files: NamedWeights, dtype: torch.dtype) -> BridgedConfig:
    """Return ``config`` with what was found out about the model and its checkpoint.

    Args:
        config: What config.json says.
        files: The checkpoint.
        dtype: Of the arithmetic.

    Raises:
        UnsupportedModelError: if parts of the model could not be found.
        CheckpointError: if tensors are missing or do not fit.
    """
    skeleton = build_skeleton(config.raw, dtype)
    conductor = Conductor()
    conductor.adopt(skeleton.layers)
    every = {id(p): n for n, p in skeleton.model.named_parameters()}
    traced = trace(skeleton, conductor, every)
    parameters = _that_run(skeleton, traced, every)
    names = resolve(skeleton, files, [*parameters.values(), *_stored_buffers(skeleton)])
    placing = _Placing(skeleton, traced, names, parameters, files)
    layers = placing.layers()
    rope = any(_depends_on_length(module) for module in skeleton.decoder.modules())
    kv, state, windows = _remembered(traced.cache, config)
    assembled = placing.assembled_numbers
    is_eager = skeleton.model.config.get_text_config(decoder=True)._attn_implementation == "eager"
    by_chunk = traced.why_by_chunk
    heads = config.num_attention_heads
    cuts = traced.cache is not None and not state and not rope
    family = BridgedFamily(
        model_type=config.model_type,
        found=layers,
        embedding=placing.table,
        scores_heads=lambda _: heads if is_eager else 0,
        unused=names.unused,
        left_out=names.left_out,
        kv_numbers=kv,
        state_numbers=state,
        assembled_numbers=assembled,
        cuts_prompts=cuts,
        why_by_chunk=by_chunk,
        skeleton=Bridged(
            skeleton, conductor, names, parameters, frozenset(placing.looked_up), traced
        ),
    )
    return replace(
        config,
        family=family,
        kv_windows=windows,
        num_hidden_layers=len(skeleton.layers),
        vocab_size=placing.vocab_size,
        intermediate_size=max(config.intermediate_size, _widest(skeleton.layers)),
        tie_word_embeddings=placing.is_tied,
    )


def hf_config(config: BridgedConfig) -> PreTrainedConfig:
    """Return a copy of the configuration of the model that runs, with no way to attend chosen."""
    assert config.family is not None
    bridged = config.family.skeleton
    assert isinstance(bridged, Bridged)
    # whoever makes a model of it chooses for itself, and writes its choice into it
    copied = deepcopy(bridged.skeleton.model.config)
    copied._attn_implementation = None
    copied._experts_implementation = None
    return copied


def _that_run(skeleton: Skeleton, traced: Trace, every: dict[int, str]) -> dict[int, str]:
    """Return the parameters of the parts that run: all, but of a multimodal model the text's."""
    if not skeleton.is_multimodal:
        return every
    used = {name for _, name in traced.uses}
    text = {id(p) for part in (skeleton.decoder, skeleton.head) for p in part.parameters()}
    return {key: name for key, name in every.items() if key in text or name in used}


def _stored_buffers(skeleton: Skeleton) -> list[str]:
    stored = skeleton.model.state_dict().keys()
    inside = {id(module) for module in skeleton.decoder.modules()}
    if not skeleton.is_multimodal:
        inside = {id(module) for module in skeleton.model.modules()}
    return [
        f"{path}.{name}" if path else name
        for path, module in skeleton.model.named_modules()
        if id(module) in inside
        for name, _ in module.named_buffers(recurse=False)
        if (f"{path}.{name}" if path else name) in stored
    ]


class _Placing:
    """Sorts parameters into layers, in order of use."""

    def __init__(
        self,
        skeleton: Skeleton,
        traced: Trace,
        names: Names,
        parameters: dict[int, str],
        files: NamedWeights,
    ) -> None:
        self._skeleton = skeleton
        self._names = names
        self._files = files
        self._parameters = parameters
        self._model = skeleton.model
        self._owners = _owners(skeleton.model)
        table, head = skeleton.table.weight, skeleton.head.weight
        assert isinstance(table, nn.Parameter)
        assert isinstance(head, nn.Parameter)
        self._table = parameters[id(table)]
        self._head = parameters[id(head)]
        self.is_tied = table is head
        self.vocab_size = table.shape[0]
        origin = names.origins[self._table]
        if origin.converter is not None:
            raise UnsupportedModelError(f"{self._table} is made of several tensors, as no table is")
        self.table = origin.names[0]
        self.looked_up: set[str] = set()
        self.assembled_numbers = 0
        self._where = self._places(traced)
        self._resident = self._shared(traced)

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers in order of use."""
        count = len(self._skeleton.layers)
        embedding = Layer("embed_tokens", "embedding", self._specs([self._table], "planned"))
        inside = {self._table, self._head}
        ordered = [name for name in self._where if name not in inside]
        groups: dict[int, list[str]] = {}
        for name in ordered:
            groups.setdefault(self._where[name], []).append(name)
        taken: set[str] = {self.table}
        found = [embedding]
        for where in range(-1, count + 1):
            specs = self._layer(groups.get(where, []), taken)
            if 0 <= where < count:
                found.append(Layer(f"layers.{where}", "decoder", specs))
            elif specs:
                found.append(Layer("outputs" if where == count else "inputs", "other", specs))
        head = self._specs([self._head], "planned")
        return (*found, Layer("lm_head", "head", head))

    def _layer(self, names: Sequence[str], taken: set[str]) -> tuple[TensorSpec, ...]:
        specs = []
        assembled = 0
        for name in names:
            placement = self._placement(name)
            if placement == "planned" and not self._is_linear(name):
                assembled += self._shape(name)
            for spec in self._specs([name], placement):
                if spec.name not in taken:
                    taken.add(spec.name)
                    specs.append(spec)
        self.assembled_numbers = max(self.assembled_numbers, assembled)
        return tuple(specs)

    def _specs(self, names: Iterable[str], placement: Placement) -> tuple[TensorSpec, ...]:
        sources = [s for name in names for s in self._origin(name).names]
        return tuple(
            TensorSpec(source, self._files.stored(source).shape, placement=placement)
            for source in sources
        )

    def _origin(self, name: str) -> Origin:
        return self._names.origins[name]

    def _shape(self, name: str) -> int:
        return prod(self._model.get_parameter(name).shape)

    def _is_linear(self, name: str) -> bool:
        owner = self._owners[name][0]
        return type(owner) is nn.Linear and self._origin(name).converter is None

    def _placement(self, name: str) -> Placement:
        if name in self._resident:
            return "resident"
        if any(isinstance(owner, nn.Embedding) for owner in self._owners[name]):
            if self._shape(name) > LOOKED_UP_NUMBERS and self._origin(name).converter is None:
                self.looked_up.add(name)
                return "gathered"
            return "resident"
        return "planned"

    def _places(self, traced: Trace) -> dict[str, int]:
        """Return the layer of each parameter, in order of use."""
        last = len(self._skeleton.layers)
        prefix = f"{self._skeleton.stack}."
        wanted = list(self._parameters.values())

        def by_name(name: str, otherwise: int) -> int:
            if not name.startswith(prefix):
                return otherwise
            return int(name[len(prefix) :].split(".", 1)[0])

        first: dict[str, int] = {}
        for where, name in traced.uses:
            first.setdefault(name, where)
        # what was not seen in use comes where it would by its name, after what was seen there
        seen_layers = [where for where in first.values() if where > 0]
        reached = traced.is_complete or bool(seen_layers)
        norm_after = last if reached or traced.uses else -1
        places = {name: by_name(name, where) for name, where in first.items()}
        rest = {n: by_name(n, norm_after) for n in wanted if n not in places}
        merged = {**{n: w for n, w in places.items() if n in set(wanted)}, **rest}
        return dict(sorted(merged.items(), key=lambda item: item[1]))

    def _shared(self, traced: Trace) -> set[str]:
        """Return the parameters that several layers use; they are read once and stay."""
        used: dict[str, set[int]] = {}
        for where, name in traced.uses:
            used.setdefault(name, set()).add(where)
        aliases: dict[int, int] = {}
        for _, parameter in self._model.named_parameters(remove_duplicate=False):
            aliases[id(parameter)] = aliases.get(id(parameter), 0) + 1
        ends = {self._table, self._head}
        shared = {
            name
            for key, name in self._parameters.items()
            if aliases[key] > 1 or len(used.get(name, ())) > 1
        }
        # one reading for targets in different layers would have to wait in memory too
        for name in self._parameters.values():
            targets = self._origin(name).targets
            if len({self._where[t] for t in targets if t in self._where}) > 1:
                shared.update(targets)
        return shared - ends


def _owners(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the modules that have each parameter, by the name it has first."""
    names: dict[int, str] = {}
    owners: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            name = names.setdefault(id(parameter), f"{path}.{local}" if path else local)
            owners.setdefault(name, []).append(module)
    return owners


def _depends_on_length(module: nn.Module) -> bool:
    kind = module.__dict__.get("rope_type")
    kinds = kind.values() if isinstance(kind, dict) else [kind]
    return any(found in _BY_LENGTH for found in kinds)


def _remembered(cache: object, config: BridgedConfig) -> tuple[int, int, tuple[int | None, ...]]:
    """Return numbers per token and layer, numbers of state, and the windows of layers with keys."""
    layers = list(getattr(cache, "layers", ()))
    if cache is None:
        # either it keeps nothing, or the run on meta ended early: as its heads say
        per_layer = 2 * config.num_key_value_heads * config.head_dim
        return per_layer, 0, (None,) * config.num_hidden_layers
    windows: list[int | None] = []
    most = 0
    kept: set[int] = set()
    for layer in layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not isinstance(layer, CacheLayerMixin) or not isinstance(keys, torch.Tensor):
            continue
        assert isinstance(values, torch.Tensor)
        most = max(most, (keys.numel() + values.numel()) // TOKENS)
        kept |= {id(keys), id(values)}
        slides = bool(getattr(layer, "is_sliding", False))
        window = getattr(layer, "sliding_window", None) if slides else None
        windows.append(window if isinstance(window, int) else None)
    state = sum(t.numel() for t in tensors_in(cache) if id(t) not in kept and t.dim() > 1)
    return most, state, tuple(windows)


def _widest(layers: nn.ModuleList) -> int:
    """Return the most features that a product in a layer makes."""
    widths = [m.out_features for m in layers.modules() if isinstance(m, nn.Linear)]
    shapes = [p.shape for p in layers.parameters() if p.dim() > 1]
    return max([*widths, *(min(max(s[-2:]), 1 << 17) for s in shapes)], default=1)
