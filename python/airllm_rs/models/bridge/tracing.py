"""One run on meta: which parameters are used in which order, and what passes between layers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from airllm_rs.models.bridge.conducting import Conductor
    from airllm_rs.models.bridge.skeleton import Skeleton

log = logging.getLogger(__name__)

TOKENS = 3
BEFORE = -1
"""What is used before the first layer is "in" this one; what is used after the last, in the one
after it."""

# On meta there is nothing to decide by; either answer leads through the layers.
_ANSWERS: dict[object, object] = {
    torch.Tensor.__bool__: True,
    torch.Tensor.__int__: 1,
    torch.Tensor.__index__: 1,
    torch.Tensor.__float__: 1.0,
}


@dataclass
class Trace:
    """What a run on meta showed."""

    uses: list[tuple[int, str]] = field(default_factory=list)
    """(layer, parameter) in the order of first use in each layer."""
    is_complete: bool = False
    """Whether it ran to the end."""
    cache: object = None
    """What the model made to remember the tokens in."""
    why_by_chunk: str = ""
    """Why layers cannot be run one after the other for several chunks; empty if they can."""
    is_tuple: bool = False
    """Whether layers return a tuple with the hidden states in front."""


def trace(skeleton: Skeleton, conductor: Conductor, parameters: dict[int, str]) -> Trace:
    """Run the model on meta with a few tokens.

    Args:
        skeleton: The model; nothing of it changes.
        conductor: Sees its layers' calls.
        parameters: The names of parameters by ``id``.
    """
    watch = _Watch(parameters, len(skeleton.layers))
    experts = skeleton.model.config._experts_implementation
    # the way through all experts that looks at no number
    _set_experts(skeleton, "batched_mm")
    conductor_before = conductor.handler
    conductor.handler = watch.layer
    model = skeleton.model
    ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    try:
        with torch.no_grad(), torch.device("meta"), watch:
            outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
        watch.found.is_complete = True
        watch.found.cache = outputs.get("cache")
    except Exception as error:  # noqa: BLE001 - it is code of others
        log.debug("the run on meta ended early: %s", error)
        watch.found.why_by_chunk = "its layers could not be followed without numbers"
    finally:
        conductor.handler = conductor_before
        _set_experts(skeleton, experts)
    return watch.judged()


def is_plain_attention(cache: object) -> bool:
    """Tell whether all that a cache holds is keys and values, of all tokens or of a window."""
    return (
        isinstance(cache, Cache)
        and type(cache) is DynamicCache
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
    )


def tensors_in(value: object, depth: int = 4) -> Iterator[Tensor]:
    """Yield the tensors in containers and plain objects."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth:
        parts: list[object] = []
        if isinstance(value, dict):
            parts = list(value.values())
        elif isinstance(value, list | tuple):
            parts = list(value)
        elif hasattr(value, "__dict__"):
            parts = list(vars(value).values())
        for part in parts:
            yield from tensors_in(part, depth - 1)


def _set_experts(skeleton: Skeleton, implementation: str | None) -> None:
    for config in {id(c): c for c in _configs(skeleton)}.values():
        config._experts_implementation = implementation


def _configs(skeleton: Skeleton) -> Iterator[Any]:
    for module in skeleton.model.modules():
        config = module.__dict__.get("config")
        if config is not None and hasattr(config, "_experts_implementation"):
            yield config


class _Watch(TorchFunctionMode):
    """Sees every call of torch."""

    def __init__(self, parameters: dict[int, str], layers: int) -> None:
        super().__init__()
        self.found = Trace()
        self._parameters = parameters
        self._layers = layers
        self._where = BEFORE
        self._is_inside = False
        self._seen: set[tuple[int, str]] = set()
        self._called: list[int] = []
        self._last: Tensor | None = None
        self._tainted: dict[int, Tensor] = {}
        self._kept: list[object] = []
        self._objections: list[str] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in _ANSWERS:
            return _ANSWERS[func]
        if func is torch.Tensor.item:
            tensor = args[0]
            assert isinstance(tensor, torch.Tensor)
            return True if tensor.dtype == torch.bool else 1
        given = list(tensors_in((args, kwargs), 3))
        if getattr(func, "__name__", "") != "__get__":
            for tensor in given:
                name = self._parameters.get(id(tensor))
                if name is not None and (self._where, name) not in self._seen:
                    self._seen.add((self._where, name))
                    self.found.uses.append((self._where, name))
        result = func(*args, **kwargs)
        if not self._is_inside and any(id(tensor) in self._tainted for tensor in given):
            for tensor in tensors_in(result, 2):
                self._taint(tensor)
        return result

    def layer(
        self,
        index: int,
        forward: Callable[..., object],
        arguments: tuple[object, ...],
        keywords: dict[str, object],
    ) -> object:
        """Watch a layer run."""
        hidden = arguments[0] if arguments else keywords.get("hidden_states")
        others = list(tensors_in((arguments[1:], {**keywords, "hidden_states": None}), 3))
        if self._last is not None:
            if hidden is not self._last:
                self._objections.append("hidden states are changed between layers")
            if any(id(tensor) in self._tainted for tensor in others):
                self._objections.append("layers pass more than hidden states on")
        if self._called != list(range(index)):
            self._objections.append("layers are not run one after the other")
        self._called.append(index)
        containers = [v for v in (*arguments, *keywords.values()) if isinstance(v, dict | list)]
        before = [[id(tensor) for tensor in tensors_in(c)] for c in containers]
        self._where = index
        self._is_inside = True
        try:
            result = forward(*arguments, **keywords)
        finally:
            self._is_inside = False
            self._where = index + 1 if index + 1 == self._layers else index
        if before != [[id(tensor) for tensor in tensors_in(c)] for c in containers]:
            self._objections.append("layers write to what they are given")
        self._kept += [arguments, keywords, result]  # so that no id is another's
        is_tuple = isinstance(result, tuple)
        self.found.is_tuple = is_tuple
        for tensor in tensors_in(result, 2):
            self._taint(tensor)
        first = result[0] if isinstance(result, tuple) else result
        self._last = first if isinstance(first, torch.Tensor) else None
        if self._last is None:
            self._objections.append("layers return no hidden states")
        return result

    def _taint(self, tensor: Tensor) -> None:
        self._tainted[id(tensor)] = tensor

    def judged(self) -> Trace:
        """Return what was found."""
        found = self.found
        if not found.why_by_chunk:
            if self._called != list(range(self._layers)):
                self._objections.append("layers are not run one after the other")
            if not is_plain_attention(found.cache):
                self._objections.insert(0, "some layers keep a state other than keys and values")
            found.why_by_chunk = next(iter(self._objections), "")
        return found
