"""Sweeps: all layers over chunks of tokens, each weight read at most once per sweep."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from airllm_rs.cache.kv import FleetingCache, KvCache
from airllm_rs.layers.attention import Context
from airllm_rs.layers.mask import Sight, Span, sight
from airllm_rs.layers.rope import Lengths
from airllm_rs.memory import replan
from airllm_rs.models.binding import Binding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from airllm_rs.cache.kv import AnyCache
    from airllm_rs.layers.rope import Rotation
    from airllm_rs.memory import MemoryPlan
    from airllm_rs.models.decoder import CausalTree
    from airllm_rs.weights.source import WeightSource

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Chunk:
    """Some tokens of every sequence on their way through the layers."""

    hidden: Tensor
    """(B, t, hidden); before the first layer possibly ids, (B, t)."""
    start: int
    """Position of the first token in the cached sequence."""
    context: Context
    rotations: tuple[Rotation, ...]
    """Of each kind of layers."""


class StreamingExecutor:
    """Runs a module tree whose weights are resident or streamed.

    A prompt passes a layer chunk by chunk before the next layer is read, where the plan holds a
    layer at a time; otherwise each chunk is a sweep of its own. One call at a time: other threads
    wait. After an exception, Ctrl-C included, the next sweep works.
    """

    def __init__(
        self,
        tree: CausalTree,
        weights: WeightSource,
        plan: MemoryPlan,
        *,
        gather: Callable[[Tensor], Tensor],
        on_layer: Callable[[int, int], None] | None = None,
        watch: Callable[[int], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Attach ``tree`` to its weights; nothing is waited for.

        Args:
            tree: The modules, on meta.
            weights: Where their tensors come from.
            plan: How many tokens make a chunk, how the embedding is looked up.
            gather: Reads rows of the embedding table from disk.
            on_layer: Called after each layer with how many are done and how many will be; at the
                end of `sweep` both are equal.
            watch: Called with the number of tokens; what it returns is entered around a `sweep`.
        """
        self.tree = tree
        self.weights = weights
        self.plan = plan
        self.on_layer = on_layer
        self._watch = watch
        self.sweeps = 0
        self.device = torch.device("cpu")
        self.dtype = weights.compute_dtype
        self.windows = tree.model.windows
        self._gather = gather
        embedding, *layers, norm, head = plan.layers
        self._layers = [
            (module, Binding(module, layer.parameters, weights))
            for module, layer in zip(tree.model.decoder_layers(), layers, strict=True)
        ]
        self._table = embedding.tensors[0].name
        self._norm = Binding(tree.model.norm, norm.parameters, weights)
        self._head = Binding(tree.lm_head, head.parameters, weights)
        self._head_units = weights.units_of([spec.name for spec in head.tensors])
        self._is_embedding_settled = False
        self._lock = threading.Lock()
        tree.model.embed_tokens.attach(gather, self.dtype)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self.weights.readahead.closed

    def new_cache(self, capacity: int) -> KvCache:
        """Return an empty cache for ``capacity`` tokens of each sequence."""
        return KvCache(self.windows, capacity)

    def sweep(
        self,
        inputs: Tensor,
        *,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
        cache: AnyCache | None = None,
        wanted: int | Tensor = 0,
        hidden_states: list[Tensor] | None = None,
    ) -> Tensor:
        """Run tokens through the model and return logits in float32, of shape (B, W, V).

        Args:
            inputs: Token ids of shape (B, T), or embeddings of shape (B, T, hidden).
            positions: Rotary positions of shape (B or 1, T); counted from the cache if None.
            valid: Of shape (B, cached + T), false where a sequence is padded.
            cache: Holds earlier tokens and takes these.
            wanted: The last so many tokens get logits, 0 for all; or indices into T.
            hidden_states: Takes the embeddings and what each layer returns, after the norm for the
                last.
        """
        batch, tokens = inputs.shape[:2]
        with self._lock:
            past = 0 if cache is None else cache.get_seq_length()
            if positions is None:
                positions = torch.arange(past, past + tokens, device=self.device)[None]
            first = past
            if isinstance(wanted, int) and wanted > 0:
                first += max(tokens - wanted, 0)
            chunks = self._chunks(inputs, positions, past, valid, cache)
            is_one_sweep = len(chunks) == 1 or self.plan.sweeps(batch * tokens) == 1
            filling = cache.filling(tokens) if isinstance(cache, KvCache) else nullcontext()
            with self.weights.sweeping(), self._watch(batch * tokens), filling:
                self._settle_embedding()
                if is_one_sweep:
                    self._layer_by_layer(chunks, valid, cache, hidden_states)
                else:
                    self._chunk_by_chunk(chunks, valid, cache, first, hidden_states)
                hidden = _rows_from(chunks, first)
                if not isinstance(wanted, int):
                    hidden = hidden[:, wanted]
                logits = self._logits(hidden)
                if hidden_states is not None:
                    hidden_states.append(self.tree.model.norm(_rows_from(chunks, past)))
            if not is_one_sweep:
                self.weights.expect()
            return logits

    @property
    def changes_past(self) -> int | None:
        """Tokens past which a cache of fewer is of no use; None where that never is."""
        return self.tree.model.changes_past

    def make_room(self, tokens: int, sequences: int) -> None:
        """Plan anew if the plan does not hold ``tokens`` of each of so many sequences.

        Raises:
            BudgetError: if giving up everything that may stream is not enough.
        """
        with self._lock:
            plan = self.plan
            if sequences * tokens > plan.max_num_seqs * plan.context:
                self._adopt(replan(plan, tokens, sequences))
                log.info("the KV cache holds %d tokens from now on", self.plan.context)

    def _adopt(self, plan: MemoryPlan) -> None:
        """Go on with a plan of the same units that keeps fewer of them, or another chunk size."""
        given_up = self.weights.residents - frozenset(plan.residents)
        for _, binding in self._layers:
            binding.unbind(given_up)
        self._head.unbind(given_up)
        if plan.embedding == "gathered":
            self.tree.model.embed_tokens.attach(self._gather, self.dtype)
        self.weights.adopt(plan)
        self.plan = plan

    def close(self) -> None:
        """Let go of all weights and stop reading; tensors made of them must not be used after."""
        with self._lock:
            everything = self.weights.residents
            for _, binding in self._layers:
                binding.unbind(everything)
            self._head.unbind(everything)
            self.tree.model.embed_tokens.attach(self._gather, self.dtype)
            self.weights.close()

    def _chunks(
        self,
        inputs: Tensor,
        positions: Tensor,
        past: int,
        valid: Tensor | None,
        cache: AnyCache | None,
    ) -> list[Chunk]:
        model = self.tree.model
        lengths = Lengths(0)
        if model.depends_on_length:
            # what depends on the length must not depend on how a prompt is cut
            lengths = _lengths(inputs, positions, past, valid, cache)
        size = max(1, self.plan.chunk_tokens // inputs.shape[0])
        return [
            Chunk(
                inputs[:, start : start + size],
                past + start,
                Context(),
                model.rotations(positions[:, start : start + size], lengths, self.dtype),
            )
            for start in range(0, inputs.shape[1], size)
        ]

    def _layer_by_layer(
        self,
        chunks: Sequence[Chunk],
        valid: Tensor | None,
        cache: AnyCache | None,
        hidden_states: list[Tensor] | None,
        progress: tuple[int, int] | None = None,
    ) -> None:
        """Pass all chunks through the layers in one sweep."""
        done, total = progress or (0, len(self._layers))
        for chunk in chunks:
            if not chunk.hidden.is_floating_point():
                chunk.hidden = self.tree.model.embed_tokens(chunk.hidden)
            elif self.tree.model.inputs_scale is not None:
                chunk.hidden = chunk.hidden * self.tree.model.inputs_scale
        sights: dict[int | None, Sight] = {}
        is_one = len(chunks) == 1
        kinds = self.tree.model.rotation_kinds
        store: AnyCache | FleetingCache | None = cache
        if store is None and not is_one:
            store = FleetingCache(self.windows, chunks[-1].start + chunks[-1].hidden.shape[1])
        for index, (layer, binding) in enumerate(self._layers):
            if hidden_states is not None:
                hidden_states.append(_rows_from(chunks, 0))
            if not binding.is_settled:
                binding.settle()
            window = self.windows[index]
            with nullcontext() if is_one else self.weights.hold():
                for chunk in chunks:
                    context = chunk.context
                    if not is_one or window not in sights:
                        sights[window] = _sight(chunk, index, window, valid, store)
                    context.sight = sights[window]
                    context.cache = store
                    if chunk.rotations:
                        context.rotation = chunk.rotations[kinds[index]]
                    chunk.hidden = layer(chunk.hidden, context)
                    context.sight = Sight()
            if self.on_layer is not None:
                self.on_layer(done + index + 1, total)
        self.sweeps += 1

    def _chunk_by_chunk(
        self,
        chunks: Sequence[Chunk],
        valid: Tensor | None,
        cache: AnyCache | None,
        first: int,
        hidden_states: list[Tensor] | None,
    ) -> None:
        """Pass one chunk after the other through the layers, each in a sweep of its own.

        Only rows from position ``first`` on are kept at the end, unless hidden states are wanted.
        """
        order = self.weights.order
        body = [unit for unit in order if unit not in self._head_units]
        self.weights.expect([*body * (len(chunks) - 1), *order])
        if cache is None:
            cache = KvCache(self.windows, chunks[-1].start + chunks[-1].hidden.shape[1])
        layers = len(self._layers)
        collected: list[list[Tensor]] = []
        for index, chunk in enumerate(chunks):
            states: list[Tensor] | None = None if hidden_states is None else []
            progress = (index * layers, layers * len(chunks))
            self._layer_by_layer([chunk], valid, cache, states, progress)
            if states is not None:
                collected.append(states)
            else:
                chunk.hidden = chunk.hidden[:, max(first - chunk.start, 0) :]
                chunk.start = max(first, chunk.start)
        if hidden_states is not None:
            hidden_states += [torch.cat(parts, dim=1) for parts in zip(*collected, strict=True)]

    def _settle_embedding(self) -> None:
        if self._is_embedding_settled:
            return
        if self.plan.embedding == "resident":
            embedding = self.tree.model.embed_tokens
            matrix = self.weights.matrix(self._table)
            with torch.inference_mode(mode=False):
                table = matrix.whole()
                if table is not None and table.dtype == self.dtype:
                    embedding.bind(table)
                else:
                    embedding.attach(matrix.rows, self.dtype)
        self._is_embedding_settled = True

    def _logits(self, hidden: Tensor) -> Tensor:
        for binding in (self._norm, self._head):
            if not binding.is_settled:
                binding.settle()
        return self.tree.logits(self.tree.model.norm(hidden))


def _lengths(
    inputs: Tensor, positions: Tensor, past: int, valid: Tensor | None, cache: AnyCache | None
) -> Lengths:
    """Return how long the sequences are, and how many tokens the first sweep brought of each."""
    batch, tokens = inputs.shape[:2]
    longest = int(positions.max()) + 1
    now = (past + tokens,) * batch if valid is None else tuple(valid.sum(1).tolist())
    # sequences are not interrupted: earlier tokens are as far back as they are in the cache
    keys = (positions[:, -1:] - torch.arange(past + tokens - 1, -1, -1)).clamp(min=0)
    if not isinstance(cache, KvCache):
        return Lengths(longest, now, keys)
    if past == 0 or cache.first_lengths is None:
        cache.first_lengths = now
    return Lengths(longest, cache.first_lengths, keys)


def _sight(
    chunk: Chunk,
    index: int,
    window: int | None,
    valid: Tensor | None,
    cache: AnyCache | FleetingCache | None,
) -> Sight:
    sequences, tokens = chunk.hidden.shape[:2]
    keys, key_start = (tokens, 0) if cache is None else cache.get_mask_sizes(tokens, index)
    return sight(Span(chunk.start, tokens, key_start, keys), sequences, window, valid)


def _rows_from(chunks: Sequence[Chunk], first: int) -> Tensor:
    """Join what the chunks hold from position ``first`` on."""
    rows = [chunk.hidden[:, max(first - chunk.start, 0) :] for chunk in chunks]
    filled = [part for part in rows if part.shape[1]]
    return filled[0] if len(filled) == 1 else torch.cat(filled or rows[:1], dim=1)
