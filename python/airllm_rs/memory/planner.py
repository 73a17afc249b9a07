"""The memory plan: a pure function of a model's sizes and of what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from airllm_rs.errors import BudgetError
from airllm_rs.families import family_of
from airllm_rs.memory import demand
from airllm_rs.memory.amount import format_bytes
from airllm_rs.memory.residents import Allotment, allot, give_up, smallest_room
from airllm_rs.memory.units import MIB, PlanLimits, Tensors, Unit, UnitTable, build_units

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Layer

MARGIN = 64 * MIB
DEFAULT_CONTEXT = 4096
CHUNK_TOKENS = (512, 256, 128, 64, 32, 16)


@dataclass(frozen=True)
class PlanRequest:
    """What a plan has to work with. Bytes are of host memory."""

    budget_bytes: int
    """For the whole process."""
    baseline_bytes: int
    """What the process takes without a model."""
    compute_dtype: str
    """``"BF16"`` or ``"F32"``."""
    weights_bytes: int | None = None
    """A cap for residents and ring together."""
    context: int | None = None
    """Tokens that the KV cache holds; by default what the model can, at most 4096."""
    max_num_seqs: int = 1
    limits: PlanLimits = field(default_factory=PlanLimits)

    def __post_init__(self) -> None:
        if self.context is not None and self.context < 1:
            raise ValueError(f"context is {self.context}: use 1 or more")
        if self.max_num_seqs < 1:
            raise ValueError(f"max_num_seqs is {self.max_num_seqs}: use 1 or more")


@dataclass(frozen=True)
class MemoryPlan:
    """What stays in memory, what is streamed and in which order, and what the rest is for."""

    budget_bytes: int
    baseline_bytes: int
    margin_bytes: int
    kv_bytes: int
    activation_bytes: int
    scratch_bytes: int
    ring_bytes: int
    resident_bytes: int
    """What residents take, converted if ``resident_dtype`` says so."""
    streamed_bytes_per_sweep: int
    """Bytes of weights, without what reads are widened by."""
    total_bytes: int
    """All weights as they are stored."""
    context: int
    max_num_seqs: int
    chunk_tokens: int
    """Tokens of all sequences that pass a layer together."""
    units: tuple[Unit, ...] = field(repr=False)
    order: tuple[int, ...] = field(repr=False)
    """Matrices in order of use over one sweep; not the embedding, which is looked up."""
    residents: tuple[int, ...] = field(repr=False)
    """Small tensors, the embedding if it stays, then matrices in order of use."""
    embedding: Literal["resident", "gathered"]
    tied: bool
    """Whether the head's units are the embedding table."""
    resident_dtype: Literal["stored", "compute"]
    """``"compute"``: all fits after a conversion to the dtype of the arithmetic, made once."""
    holds_layer: bool
    """Whether all chunks of a prompt pass a layer before the next is read."""
    inputs: PlanInputs = field(repr=False, compare=False)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is run, in order of use: embedding, decoder layers, norm, head."""
        return self.inputs.table.layers

    @property
    def fits(self) -> bool:
        """Whether nothing is streamed."""
        return self.streamed_bytes_per_sweep == 0

    @property
    def planned_bytes(self) -> int:
        """All parts together; within the budget."""
        return (
            self.baseline_bytes
            + self.margin_bytes
            + self.kv_bytes
            + self.activation_bytes
            + self.scratch_bytes
            + self.ring_bytes
            + self.resident_bytes
        )

    def sweeps(self, tokens: int) -> int:
        """Return how many sweeps a prompt of ``tokens`` takes, counted over all sequences."""
        return 1 if self.holds_layer else max(-(-tokens // self.chunk_tokens), 1)


@dataclass(frozen=True)
class PlanInputs:
    """What a plan was made from, kept to make the next one."""

    config: ModelConfig
    files: Tensors
    request: PlanRequest
    table: UnitTable


def plan(config: ModelConfig, files: Tensors, request: PlanRequest) -> MemoryPlan:
    """Divide the budget.

    Args:
        config: The model's configuration.
        files: Where its tensors lie; validated against the family before.
        request: The budget, and what it is for.

    Raises:
        BudgetError: if the budget, or the cap for weights, cannot work; names the smallest that
            does.
    """
    limits = request.limits
    single = _table(config, files, replace(limits, group_bytes=0))
    _check(config, single, request)
    chunk = _chunk_tokens(_Demand(config, single, request), smallest_room(single))
    while True:
        table = _table(config, files, limits)
        found = _best(_Demand(config, table, request), chunk)
        # a group is read and held as one: few of them must not fill the ring
        if found is not None and table.largest_group <= found.group_limit:
            return _assemble(PlanInputs(config, files, request, table), chunk, found)
        assert limits.group_bytes, "without groups, what passed the check works"
        most = limits.group_bytes // 2 if found is None else found.group_limit
        smaller = min(most, limits.group_bytes // 2)
        limits = replace(limits, group_bytes=smaller if smaller > limits.resident_below else 0)


def smallest_budget(config: ModelConfig, files: Tensors, request: PlanRequest) -> int:
    """Return the smallest ``budget_bytes`` that works for the rest of ``request``."""
    table = _table(config, files, replace(request.limits, group_bytes=0))
    return _Demand(config, table, request).smallest_budget(smallest_room(table))


def max_concurrent_tokens(config: ModelConfig, files: Tensors, request: PlanRequest) -> int:
    """Return how many tokens one sequence can have in the budget if all weights stream."""
    table = _table(config, files, replace(request.limits, group_bytes=0))
    weights = smallest_room(table)

    def works(tokens: int) -> bool:
        asked = replace(request, context=tokens, max_num_seqs=1)
        return _Demand(config, table, asked).smallest_budget(weights) <= request.budget_bytes

    if not works(1):
        return 0
    most = 2
    while works(most):
        most *= 2
    fewest = most // 2
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (middle, most) if works(middle) else (fewest, middle)
    return fewest


def replan(current: MemoryPlan, context: int, max_num_seqs: int = 1) -> MemoryPlan:
    """Return a plan for other sequences that only gives up residents.

    Units, their order and the ring stay as they are; what stays resident is a part of what was.
    Sequences that take no more than the current plan reserves, many short ones for instance,
    return it.

    Raises:
        BudgetError: if giving up everything that may stream is not enough.
    """
    inputs = current.inputs
    request = replace(inputs.request, context=context, max_num_seqs=max_num_seqs)
    need = _Demand(inputs.config, inputs.table, request)
    chunk = current.chunk_tokens
    activations = need.activation_bytes(chunk, layer_major=current.holds_layer)
    if need.kv_bytes(chunk) <= current.kv_bytes and activations <= current.activation_bytes:
        return current
    for layer_major in (True, False):
        room = need.room(chunk, layer_major=layer_major)
        if current.resident_dtype == "compute":
            stays = current.resident_bytes <= room
            kept = Allotment(current.residents, 0, holds_layer=True) if stays else None
        else:
            kept = give_up(inputs.table, current.residents, current.ring_bytes, room)
        if kept is not None and kept.holds_layer >= layer_major:
            found = _Choice(kept, layer_major=layer_major, resident_dtype=current.resident_dtype)
            return _assemble(replace(inputs, request=request), chunk, found)
    smallest = smallest_budget(inputs.config, inputs.files, request)
    more = f", memory={format_bytes(smallest)}" if smallest > request.budget_bytes else ""
    many = f", max_num_seqs={request.max_num_seqs}" if request.max_num_seqs > 1 else ""
    raise BudgetError(
        f"no room for the KV cache of {request.context} tokens "
        f"({format_bytes(need.kv_bytes(chunk))}) beside what is loaded: load the model with "
        f"context={request.context}{many}{more}",
        option="memory",
        allowed_bytes=request.budget_bytes,
        smallest_bytes=smallest,
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    allotment: Allotment
    layer_major: bool
    resident_dtype: Literal["stored", "compute"]

    @property
    def group_limit(self) -> int:
        ring = self.allotment.ring_bytes
        return ring // 4 if ring else 1 << 62


class _Demand:
    """What a request needs beside weights."""

    def __init__(self, config: ModelConfig, table: UnitTable, request: PlanRequest) -> None:
        self.config = config
        self.table = table
        self.request = request
        self.context = request.context or min(config.max_position_embeddings, DEFAULT_CONTEXT)

    def shape(self, chunk: int) -> demand.Shape:
        return demand.Shape(
            self.context, self.request.max_num_seqs, chunk, self.request.compute_dtype
        )

    def kv_bytes(self, chunk: int) -> int:
        return demand.kv_bytes(self.config, family_of(self.config), self.shape(chunk))

    def activation_bytes(self, chunk: int, *, layer_major: bool) -> int:
        shape, family = self.shape(chunk), family_of(self.config)
        always = demand.activation_bytes(self.config, family, shape, layer_major=layer_major)
        return always + family.beside_bytes(
            self.config,
            rows=shape.rows,
            context=shape.context,
            sequences=shape.max_num_seqs,
            item=shape.item,
        )

    def scratch_bytes(self) -> int:
        return demand.scratch_bytes(self.table, self.shape(CHUNK_TOKENS[0]))

    def beside_weights(self, chunk: int, *, layer_major: bool) -> int:
        return (
            self.request.baseline_bytes
            + MARGIN
            + self.kv_bytes(chunk)
            + self.activation_bytes(chunk, layer_major=layer_major)
            + self.scratch_bytes()
        )

    def room(self, chunk: int, *, layer_major: bool) -> int:
        room = self.request.budget_bytes - self.beside_weights(chunk, layer_major=layer_major)
        cap = self.request.weights_bytes
        return room if cap is None else min(room, cap)

    def smallest_budget(self, weights: int) -> int:
        return self.beside_weights(CHUNK_TOKENS[-1], layer_major=False) + weights


def _table(config: ModelConfig, files: Tensors, limits: PlanLimits) -> UnitTable:
    layers = family_of(config).layers(config)
    return build_units(layers, files, limits, tied=config.tie_word_embeddings)


def _check(config: ModelConfig, single: UnitTable, request: PlanRequest) -> None:
    weights = smallest_room(single)
    need = _Demand(config, single, request)
    smallest = need.smallest_budget(weights)
    if request.budget_bytes < smallest:
        raise BudgetError(
            f"memory={format_bytes(request.budget_bytes)} is too little: "
            f"{format_bytes(request.baseline_bytes + MARGIN)} go to the process, "
            f"{format_bytes(need.kv_bytes(CHUNK_TOKENS[-1]))} to the KV cache of "
            f"{need.context} tokens; the smallest that works is {format_bytes(smallest)}",
            option="memory",
            allowed_bytes=request.budget_bytes,
            smallest_bytes=smallest,
        )
    if request.weights_bytes is not None and request.weights_bytes < weights:
        raise BudgetError(
            f"weights_memory={format_bytes(request.weights_bytes)} is too little: two of the "
            f"largest units and the small tensors must be held at once; the smallest that works "
            f"is {format_bytes(weights)}",
            option="weights_memory",
            allowed_bytes=request.weights_bytes,
            smallest_bytes=weights,
        )


def _chunk_tokens(need: _Demand, weights: int) -> int:
    """Return the largest chunk whose activations leave most of the budget to weights."""
    smallest = CHUNK_TOKENS[-1]
    free = need.request.budget_bytes - need.smallest_budget(weights)
    least = need.activation_bytes(smallest, layer_major=False)
    for chunk in CHUNK_TOKENS:
        # a sliding layer's KV grows with the chunk too
        extra = need.activation_bytes(chunk, layer_major=False) - least
        extra += need.kv_bytes(chunk) - need.kv_bytes(smallest)
        if 8 * extra <= free:
            return chunk
    return smallest


def _best(need: _Demand, chunk: int) -> _Choice | None:
    """Choose: all in memory if possible, else a layer at a time, else a chunk at a time."""
    table = need.table
    both = [(need.room(chunk, layer_major=flag), flag) for flag in (True, False)]
    everything = (*table.always, *table.embedding, *table.order)
    converted = demand.converted_bytes(table, need.request.compute_dtype)
    small = table.nbytes((*table.always, *table.embedding))
    if converted > table.nbytes(table.order):
        for room, layer_major in both:
            if small + converted <= room:
                return _Choice(Allotment(everything, 0, layer_major), layer_major, "compute")
    found = [(allot(table, room, need.request.limits), flag) for room, flag in both]
    for allotment, layer_major in found:
        if allotment is not None and allotment.ring_bytes == 0:
            return _Choice(allotment, layer_major, "stored")
    for allotment, layer_major in found:
        if allotment is not None and allotment.holds_layer >= layer_major:
            return _Choice(allotment, layer_major, "stored")
    return None


def _assemble(inputs: PlanInputs, chunk: int, choice: _Choice) -> MemoryPlan:
    table, request = inputs.table, inputs.request
    need = _Demand(inputs.config, table, request)
    residents = choice.allotment.residents
    kept = set(residents)
    streamed = [index for index in table.order if index not in kept]
    looked_up = table.head if table.tied else table.embedding
    resident_bytes = table.nbytes(residents)
    if choice.resident_dtype == "compute":
        resident_bytes += demand.converted_bytes(table, request.compute_dtype)
        resident_bytes -= table.nbytes(table.order)
    return MemoryPlan(
        budget_bytes=request.budget_bytes,
        baseline_bytes=request.baseline_bytes,
        margin_bytes=MARGIN,
        kv_bytes=need.kv_bytes(chunk),
        activation_bytes=need.activation_bytes(chunk, layer_major=choice.layer_major),
        scratch_bytes=need.scratch_bytes(),
        ring_bytes=choice.allotment.ring_bytes,
        resident_bytes=resident_bytes,
        streamed_bytes_per_sweep=_stored_bytes(table, streamed),
        total_bytes=_stored_bytes(table, range(len(table.units))),
        context=need.context,
        max_num_seqs=request.max_num_seqs,
        chunk_tokens=chunk,
        units=table.units,
        order=table.order,
        residents=residents,
        embedding="resident" if looked_up and kept.issuperset(looked_up) else "gathered",
        tied=table.tied,
        resident_dtype=choice.resident_dtype,
        holds_layer=choice.layer_major,
        inputs=inputs,
    )


def _stored_bytes(table: UnitTable, indexes: range | list[int]) -> int:
    return sum(piece.nbytes for index in indexes for piece in table.units[index].pieces)
