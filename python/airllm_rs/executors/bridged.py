"""Sweeps of a model of transformers: its own forward, with weights that come and go."""

from __future__ import annotations

import inspect
import logging
import threading
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from airllm_rs.executors.replaying import Recording, Replay, is_full
from airllm_rs.memory import replan
from airllm_rs.models.bridge.attaching import attach
from airllm_rs.models.bridge.caches import FollowingCache, guarded, new_cache, note_tokens
from airllm_rs.weights.rows import row_reader
from airllm_rs.weights.small import read_tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from airllm_rs.cache.kv import AnyCache
    from airllm_rs.checkpoint import ModelFiles
    from airllm_rs.families.bridged import BridgedConfig
    from airllm_rs.memory import MemoryPlan
    from airllm_rs.weights.followed import FollowedSource

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Run:
    """What a sweep is about."""

    inputs: Tensor
    positions: Tensor | None
    valid: Tensor | None
    cache: AnyCache | None
    past: int


class BridgedTree:
    """The parts of the model under the names that a native tree has."""

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        self.model = model
        self.lm_head = head


class BridgedExecutor:
    """Runs a model of transformers whose weights are resident or streamed.

    One call at a time: other threads wait. After an exception, Ctrl-C included, the next sweep
    works.
    """

    def __init__(
        self,
        config: BridgedConfig,
        files: ModelFiles,
        weights: FollowedSource,
        plan: MemoryPlan,
        *,
        gather: Callable[[Tensor], Tensor],
        on_layer: Callable[[int, int], None] | None = None,
        watch: Callable[[int], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Attach the model to its weights; nothing is waited for.

        Args:
            config: What was found out about the model.
            files: The checkpoint.
            weights: Where tensors come from.
            plan: How many tokens make a chunk, how the embedding is looked up.
            gather: Reads rows of the embedding table from disk.
            on_layer: Called after each layer with how many are done and how many will be; at the
                end of `sweep` both are equal.
            watch: Called with the number of tokens; what it returns is entered around a `sweep`.
        """
        assert config.family is not None
        self.family = config.family
        self.weights = weights
        self.plan = plan
        self.on_layer = on_layer
        self.sweeps = 0
        self.device = torch.device("cpu")
        self.dtype = weights.compute_dtype
        self.windows = config.windows
        self._watch = watch
        self._lock = threading.Lock()
        self._attached = attach(
            self.family,
            weights,
            plan,
            gather=gather,
            rows_of=partial(row_reader, files, compute_dtype=self.dtype),
            read=partial(read_tensor, files),
        )
        bridged = self._attached.bridged
        self._bridged = bridged
        self._model = bridged.skeleton.model
        self._accepts = frozenset(inspect.signature(type(self._model).forward).parameters)
        self._cache_name = "cache" if "cache" in self._accepts else "past_key_values"
        self._progress = (0, 1)
        bridged.conductor.handler = self._run_layer
        self._replay = Replay(
            bridged.conductor, list(bridged.skeleton.layers), is_tuple=bridged.trace.is_tuple
        )
        self.tree = BridgedTree(
            bridged.skeleton.decoder,
            self._model.get_output_embeddings(),  # type: ignore[no-untyped-call]
        )

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self.weights.readahead.closed

    def new_cache(self, capacity: int) -> AnyCache | None:
        """Return an empty cache for ``capacity`` tokens of each sequence."""
        return new_cache(self._bridged, self.windows, capacity)

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
            positions: Positions of shape (B or 1, T); the model's own if None.
            valid: Of shape (B, cached + T), false where a sequence is padded.
            cache: Holds earlier tokens and takes these.
            wanted: The last so many tokens get logits, 0 for all; or indices into T.
            hidden_states: Takes what the model itself reports as its hidden states.
        """
        batch, tokens = inputs.shape[:2]
        with self._lock:
            past = 0 if cache is None else cache.get_seq_length()
            size = tokens
            if self.family.cuts_prompts:
                size = max(1, self.plan.chunk_tokens // batch)
            starts = range(0, tokens, size)
            if len(starts) > 1 and cache is None:
                cache = self.new_cache(past + tokens)
            run = _Run(inputs, positions, valid, cache, past)
            with (
                self.weights.sweeping(),
                ExitStack() as after,
                self._watch(batch * tokens),
                guarded(cache),
                torch.no_grad(),
            ):
                after.callback(self._attached.scope.clear)
                if self._can_replay(run, starts, hidden_states):
                    logits = self._layer_by_layer(run, starts, size, wanted)
                else:
                    logits = self._chunk_by_chunk(run, starts, size, wanted, hidden_states)
            self.weights.finish()
            note_tokens(cache, tokens)
            return logits

    @property
    def changes_past(self) -> int | None:
        """None: a cache stays of use."""
        return None

    def make_room(self, tokens: int, sequences: int) -> None:
        """Plan anew if the plan does not hold ``tokens`` of each of so many sequences.

        Raises:
            BudgetError: if giving up everything that may stream is not enough.
        """
        with self._lock:
            plan = self.plan
            if sequences * tokens > plan.max_num_seqs * plan.context:
                made = replan(plan, tokens, sequences)
                self._attached.unbind(self.weights.residents - frozenset(made.residents))
                self.weights.adopt(made)
                self.plan = made

    def close(self) -> None:
        """Let go of all weights and stop reading; tensors made of them must not be used after."""
        with self._lock:
            self._attached.unbind(self.weights.residents)
            self.weights.close()

    def _can_replay(self, run: _Run, starts: range, hidden_states: list[Tensor] | None) -> bool:
        tokens = run.inputs.shape[0] * run.inputs.shape[1]
        return (
            len(starts) > 1
            and not self.family.why_by_chunk
            and self.plan.sweeps(tokens) == 1
            and hidden_states is None
            and isinstance(run.cache, FollowingCache)
        )

    def _layer_by_layer(self, run: _Run, starts: range, size: int, wanted: int | Tensor) -> Tensor:
        """Pass all chunks through a layer before the next one, in one sweep where masks are small.

        The model's own forward runs up to its layers once per chunk, and beyond them once.
        """
        assert isinstance(run.cache, FollowingCache)
        tokens = run.inputs.shape[1]
        first = first_wanted(wanted, tokens)
        layers = len(self._attached.layers)
        rows: list[Tensor] = []
        waiting: list[Recording] = []
        for start in starts:
            stop = min(start + size, tokens)
            forward = partial(self._forward, run, start, stop, None, False)
            waiting.append(self._replay.record(forward, run.cache, run.past + start, stop - start))
            if stop < tokens and not is_full(waiting):
                continue
            self._progress = (layers * stop // tokens - layers, layers)
            self._replay.run(waiting, run.cache, self.weights, self._around)
            self.sweeps += 1
            rows += [c.hidden[:, max(first + run.past - c.start, 0) :] for c in waiting]
            waiting.clear()
            if stop < tokens:
                # the head's turn in the order, without a use for it
                self.weights.finish()
                self.weights.expect()
        hidden = torch.cat([part for part in rows if part.shape[1]], dim=1)
        parts = [
            self._ended(
                run.inputs[:, first + start : first + start + size], hidden[:, start : start + size]
            )
            for start in range(0, hidden.shape[1], size)
        ]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if isinstance(wanted, torch.Tensor):
            logits = logits[:, wanted % tokens - first]
        return logits.float()

    def _ended(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        """Return the logits of ``hidden`` (B, t, hidden), for the tokens ``inputs``."""
        run = _Run(inputs, None, None, None, 0)
        forward = partial(self._forward, run, 0, inputs.shape[1], inputs.shape[1], False)
        outputs: Any = self._replay.end(forward, hidden)
        return outputs.logits  # type: ignore[no-any-return]

    def _around(self, index: int) -> Callable[[], None]:
        attached = self._attached
        attached.scope.clear()
        attached.settle(index)

        def done() -> None:
            attached.scope.clear()
            base, total = self._progress
            if self.on_layer is not None:
                self.on_layer(base + index + 1, total)

        return done

    def _chunk_by_chunk(
        self,
        run: _Run,
        starts: range,
        size: int,
        wanted: int | Tensor,
        hidden_states: list[Tensor] | None,
    ) -> Tensor:
        """Pass one chunk after the other through the model, each in a sweep of its own."""
        tokens = run.inputs.shape[1]
        first = first_wanted(wanted, tokens)
        kept = [max(min(start + size, tokens) - max(first, start), 0) for start in starts]
        layers = len(self._attached.layers)
        wants_states = hidden_states is not None
        is_finite = len(starts) > 1
        if is_finite:
            order = self.weights.order
            body = [unit for unit in order if unit not in self._attached.head_units]
            sweeps = [order if keep or wants_states else body for keep in kept]
            self.weights.expect([unit for units in sweeps for unit in units])
        parts: list[Tensor] = []
        states: list[tuple[Tensor, ...]] = []
        for index, (start, keep) in enumerate(zip(starts, kept, strict=True)):
            self._progress = (index * layers, layers * len(starts))
            has_head = keep > 0 or wants_states
            outputs = self._forward(
                run, start, start + size, keep if has_head else None, wants_states
            )
            if keep:
                parts.append(outputs.logits[:, -keep:])
            if wants_states:
                states.append(outputs.hidden_states)
            del outputs
            self.sweeps += 1
        if is_finite:
            self.weights.finish()
            self.weights.expect()
        if hidden_states is not None:
            hidden_states += [torch.cat(found, dim=1) for found in zip(*states, strict=True)]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if isinstance(wanted, torch.Tensor):
            logits = logits[:, wanted % tokens - first]
        return logits.float()

    def _forward(
        self, run: _Run, start: int, stop: int, keep: int | None, wants_states: bool
    ) -> Any:  # noqa: ANN401 - an output of transformers
        """Run tokens [start, stop) through the model; without its head if ``keep`` is None."""
        part = run.inputs[:, start:stop]
        tokens = part.shape[1]
        named: dict[str, object] = {
            "inputs_embeds" if part.is_floating_point() else "input_ids": part,
            "use_cache": run.cache is not None,
        }
        if run.cache is not None:
            named[self._cache_name] = run.cache
        if run.valid is not None:
            end = run.past + start + tokens
            # what keeps no keys of earlier tokens has no use for their mask
            mask = run.valid[:, end - tokens if self.family.keeps_states_alone else 0 : end]
            if not bool(mask.all()):
                named["attention_mask"] = mask.long()
        if run.positions is not None and "position_ids" in self._accepts:
            named["position_ids"] = run.positions[..., start : start + tokens]
        if wants_states:
            named["output_hidden_states"] = True
        self._attached.settle_outside()
        if keep is None:
            return self._model.base_model(**named)
        if "logits_to_keep" in self._accepts and keep < tokens:
            named["logits_to_keep"] = max(keep, 1)
        return self._model(**named)

    def _run_layer(
        self,
        index: int,
        forward: Callable[..., object],
        arguments: tuple[object, ...],
        keywords: dict[str, object],
    ) -> object:
        done = self._around(index)
        try:
            return forward(*arguments, **keywords)
        finally:
            done()


def first_wanted(wanted: int | Tensor, tokens: int) -> int:
    """Return the first of ``tokens`` rows that gets logits, given the last so many or indices."""
    if isinstance(wanted, torch.Tensor):
        return int((wanted % tokens).min()) if wanted.numel() else tokens - 1
    return max(tokens - wanted, 0) if wanted else 0
