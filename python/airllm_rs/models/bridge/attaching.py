"""Attaches a skeleton to the weights of its checkpoint."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from airllm_rs.layers.streamed import LinearWithWeight, Streamed
from airllm_rs.models.bridge.binding import (
    LayerBinding,
    MadeWeights,
    Scope,
    StoredWeights,
    TableRows,
)
from airllm_rs.models.bridge.buffers import compute_buffers
from airllm_rs.models.bridge.describing import Bridged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from airllm_rs.families.bridged import BridgedFamily
    from airllm_rs.memory import MemoryPlan
    from airllm_rs.weights.source import Matrix, WeightSource


@dataclass
class Attached:
    """A model whose every parameter is there, or stands for one that comes when it is used."""

    bridged: Bridged
    weights: WeightSource
    scope: Scope
    layers: list[LayerBinding]
    before: LayerBinding = field(default_factory=LayerBinding)
    """What is outside of the layers, but the head."""
    head: LayerBinding = field(default_factory=LayerBinding)
    head_units: frozenset[int] = frozenset()

    def settle(self, index: int) -> None:
        """Make sure that what stays of layer ``index`` is in its place."""
        if not self.layers[index].is_settled:
            self.layers[index].settle(self.weights)

    def settle_outside(self) -> None:
        """Make sure that what stays of all else is in its place, but a head is waited for later."""
        if not self.before.is_settled:
            self.before.settle(self.weights)
        elif not self.head.is_settled:
            self.head.settle(self.weights)

    def unbind(self, units: frozenset[int]) -> None:
        """Let go of weights that lie in ``units``."""
        for binding in (*self.layers, self.before, self.head):
            binding.unbind(self.weights, units)


def attach(
    family: BridgedFamily,
    weights: WeightSource,
    plan: MemoryPlan,
    *,
    gather: Callable[[Tensor], Tensor],
    rows_of: Callable[[str], Callable[[Tensor], Tensor]],
    read: Callable[[str], Tensor],
) -> Attached:
    """Give the skeleton of ``family`` its buffers and attach it to ``weights``.

    Args:
        family: What was found out about the model.
        weights: Where matrices come from.
        plan: What stays of them.
        gather: Reads rows of the embedding table from disk.
        rows_of: Returns what reads rows of another table, given its name in the checkpoint.
        read: Reads a small tensor of the checkpoint in the dtype that it is stored in.
    """
    bridged = family.skeleton
    assert isinstance(bridged, Bridged)
    attached = Attached(
        bridged, weights, Scope(), [LayerBinding() for _ in bridged.skeleton.layers]
    )
    compute_buffers(bridged.skeleton.model)
    _read_buffers(bridged, read)
    maker = _Maker(attached, family.embedding, plan, gather, rows_of)
    for name in bridged.parameters.values():
        maker.place(name)
    return attached


def _read_buffers(bridged: Bridged, read: Callable[[str], Tensor]) -> None:
    """Read the buffers that the checkpoint has."""
    parameters = set(bridged.parameters.values())
    for name, origin in bridged.names.origins.items():
        if name in parameters:
            continue
        made = origin.convert(read, bridged.skeleton.model)
        path, _, local = name.rpartition(".")
        module = bridged.skeleton.model.get_submodule(path)
        wanted = module._buffers[local]
        assert wanted is not None
        module._buffers[local] = made[name].to(wanted.dtype)


class _Maker:
    """Puts what stands for each parameter into its places."""

    def __init__(
        self,
        attached: Attached,
        table: str,
        plan: MemoryPlan,
        gather: Callable[[Tensor], Tensor],
        rows_of: Callable[[str], Callable[[Tensor], Tensor]],
    ) -> None:
        self._attached = attached
        self._bridged = attached.bridged
        self._weights = attached.weights
        self._rows_of = rows_of
        self._plan = plan
        self._gather = gather
        self._table = table
        self._always = frozenset(plan.inputs.table.always)
        self._stack = f"{self._bridged.skeleton.stack}."
        self._places: dict[int, list[tuple[str, nn.Module, str]]] = {}
        for path, module in self._bridged.skeleton.model.named_modules(remove_duplicate=False):
            for local, parameter in module._parameters.items():
                if parameter is not None:
                    self._places.setdefault(id(parameter), []).append((path, module, local))
        self._keys = {name: key for key, name in self._bridged.parameters.items()}

    def place(self, name: str) -> None:
        """Put what stands for the parameter ``name`` where the model looks for it."""
        placed = self._places[self._keys[name]]
        places = [(module, local) for _, module, local in placed]
        parameter = places[0][0]._parameters[places[0][1]]
        assert parameter is not None
        origin = self._bridged.names.origins[name]
        binding = self._binding(name)
        scope, compute = self._attached.scope, self._weights.compute_dtype
        if origin.converter is not None:
            made = MadeWeights(
                name, parameter, origin, scope, self._weights, self._bridged.skeleton.model
            )
            binding.add_streamed(places, Streamed.of(made), None)
            return
        source = origin.names[0]
        if name in self._bridged.looked_up:
            looked_up = LookedUp(parameter, self._rows_of(source))
            binding.add_streamed(places, Streamed.of(looked_up), None)
            return
        matrix = self._weights.matrix(source)
        stored = StoredWeights(matrix, scope, parameter.dtype, compute)
        if source == self._table:
            self._place_table(placed, matrix, stored)
        elif self._weights.units_of([source]) <= self._always:
            # a head is waited for when it has run; what is small is there before
            at_once = self._attached.before if binding is self._attached.head else binding
            at_once.add_small(places, source, parameter.dtype)
        elif self._is_ours(places, stored):
            self._place_linear(placed, binding, matrix, stored)
        else:
            binding.add_streamed(places, Streamed.of(stored), matrix)
        if self._bridged.skeleton.head is places[0][0]:
            self._attached.head_units |= self._weights.units_of([source])

    def _binding(self, name: str) -> LayerBinding:
        if name.startswith(self._stack):
            index = int(name[len(self._stack) :].split(".", 1)[0])
            return self._attached.layers[index]
        head = self._bridged.skeleton.head
        is_head = any(module is head for _, module, _ in self._places[self._keys[name]])
        return self._attached.head if is_head else self._attached.before

    def _is_ours(self, places: list[tuple[nn.Module, str]], stored: StoredWeights) -> bool:
        return all(
            type(module) is nn.Linear and local == "weight" for module, local in places
        ) and (stored.dtype == self._weights.compute_dtype)

    def _place_linear(
        self,
        placed: list[tuple[str, nn.Module, str]],
        binding: LayerBinding,
        matrix: Matrix,
        stored: StoredWeights,
    ) -> None:
        """Put our `Linear` in the place of torch's."""
        ours: dict[int, LinearWithWeight] = {}
        for path, module, _ in placed:
            assert isinstance(module, nn.Linear)
            linear = ours.get(id(module))
            if linear is None:
                linear = LinearWithWeight(
                    module.in_features,
                    module.out_features,
                    bias=module.bias is not None,
                    weight=stored,
                )
                linear._parameters["bias"] = module._parameters["bias"]
                linear.training = module.training
                linear.attach(matrix, self._weights.compute_dtype)
                binding.add_linear(linear, matrix)
                ours[id(module)] = linear
                self._replaced(module, linear)
            parent, _, local = path.rpartition(".")
            setattr(self._bridged.skeleton.model.get_submodule(parent), local, linear)

    def _replaced(self, module: nn.Linear, linear: LinearWithWeight) -> None:
        """Let a bias that is placed later find its place."""
        if module.bias is not None:
            found = self._places[id(module.bias)]
            found[:] = [
                (path, linear if owner is module else owner, local) for path, owner, local in found
            ]

    def _place_table(
        self, placed: list[tuple[str, nn.Module, str]], matrix: Matrix, stored: StoredWeights
    ) -> None:
        """Put the table where rows are looked up, and where it is the head's matrix too."""
        tables: list[tuple[nn.Module, str]] = [
            (module, local) for _, module, local in placed if isinstance(module, nn.Embedding)
        ]
        others = [entry for entry in placed if not isinstance(entry[1], nn.Embedding)]
        is_kept = self._plan.embedding == "resident"
        rows = TableRows(stored, matrix.rows if is_kept else self._gather, stored.dtype)
        self._attached.before.add_streamed(tables, Streamed.of(rows), matrix if is_kept else None)
        if others:
            self._attached.head_units |= self._weights.units_of([self._table])
        plain = [(module, local) for _, module, local in others]
        if others and self._is_ours(plain, stored):
            self._place_linear(others, self._attached.head, matrix, stored)
        elif others:
            self._attached.head.add_streamed(plain, Streamed.of(rows), matrix)


class LookedUp:
    """A table that is never in memory: rows are read when they are looked up."""

    def __init__(self, parameter: Tensor, rows: Callable[[Tensor], Tensor]) -> None:
        self.shape = tuple(parameter.shape)
        self.dtype = parameter.dtype
        self._rows = rows

    def rows(self, ids: Tensor) -> Tensor | None:
        """Return the rows ``ids`` of any shape."""
        return self._rows(ids).to(self.dtype)

    def tensor(self) -> Tensor:
        """Return all rows."""
        return self._rows(torch.arange(self.shape[0])).to(self.dtype)

    @contextmanager
    def once(self) -> Iterator[Tensor]:
        """Lend all rows."""
        yield self.tensor()

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """Return nothing: it is no matrix of a product."""
        return None
