"""A loaded model: transformers' generation, and text in and out."""

from __future__ import annotations

import json
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Self

import torch
from transformers import GenerationConfig

from airllm_rs.auto.executor import build_executor
from airllm_rs.auto.pace import DecodePace
from airllm_rs.auto.prompts import Sampling, encode
from airllm_rs.auto.text_stream import TextStream
from airllm_rs.auto.watch import SweepWatch
from airllm_rs.checkpoint import tokenizer_directory
from airllm_rs.generation.causal_lm import CausalLM
from airllm_rs.generation.configuration import transformers_config
from airllm_rs.memory import record_baseline
from airllm_rs.stats import IoCounters, MemoryCounters, PeakMemory, RunCounters, process_memory
from airllm_rs.stats.cgroup import cgroup_bytes, memory_cgroup
from airllm_rs.tokenizer import load_tokenizer, stop_ids
from airllm_rs.weights.dtypes import TORCH_DTYPES
from airllm_rs.weights.experience import keep_experience
from airllm_rs.weights.readahead import keep_settings
from airllm_rs.weights.rows import row_reader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from transformers import PreTrainedTokenizerBase
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    from airllm_rs.auto.opening import Opened
    from airllm_rs.stats.progress import Progress
    from airllm_rs.weights.readahead import Readahead

log = logging.getLogger(__name__)


class Model(CausalLM):  # type: ignore[no-untyped-call]
    """What `AutoModel.from_pretrained` returns."""

    def __init__(self, opened: Opened, readahead: Readahead, *, progress: Progress) -> None:
        """Build the modules of ``opened`` on top of ``readahead``, which is reading already."""
        files, plan = opened.files, opened.plan
        dtype = TORCH_DTYPES[opened.compute_dtype]
        gather = row_reader(files, plan.layers[0].tensors[0].name, compute_dtype=dtype)
        peak = PeakMemory()
        pace = DecodePace(readahead.progress)
        watch = SweepWatch(progress, peak, records=opened.options.trace, on_sweep=pace.note_sweep)
        executor = build_executor(
            opened.config,
            files,
            plan,
            readahead,
            compute_dtype=dtype,
            prefetching=opened.options.prefetching,
            gather=gather,
            on_layer=watch.on_layer,
            watch=watch.watch,
        )
        config = transformers_config(opened.config, dtype)
        super().__init__(config, executor, generation_config=_generation_config(opened, config))
        self.opened = opened
        self._gather = gather
        self._peak = peak
        self._sweep_watch = watch
        self._pace = pace
        self._settle_baseline()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer; a missing padding token becomes the end token, on the left.

        Raises:
            TokenizerError: if there is none, or it cannot be read.
        """
        return load_tokenizer(tokenizer_directory(self.opened.files))

    @property
    def stats(self) -> dict[str, object]:
        """The counters since the model was loaded, timings of the last generation among them.

        The keys are those of ``airllm-rs run --json``.
        """
        self._peak.sample()
        read = self.executor.weights.readahead.stats()
        io = IoCounters.from_readahead(read)
        io.bytes_read += self._gather.bytes_read
        io.requests += self._gather.calls
        plan = self.plan
        return RunCounters(
            total_bytes=plan.total_bytes,
            resident_bytes=plan.resident_bytes,
            streamed_bytes_per_sweep=plan.streamed_bytes_per_sweep,
            scheme=", ".join(self.opened.files.schemes) or None,
            sweeps=self.executor.sweeps,
            timings=self.timings,
            io=io,
            memory=MemoryCounters(
                budget_bytes=plan.budget_bytes,
                peak_bytes=max(self._peak.anon_bytes, read["peak_anon_bytes"]),
                file_mapped_bytes=process_memory().file_bytes,
                cgroup_bytes=cgroup_bytes() if memory_cgroup() is not None else None,
            ),
        ).to_json()

    @property
    def layer_spans(self) -> Sequence[tuple[int, int, int, int]]:
        """When each layer was computed, with the option ``trace``; see `SweepWatch.spans`."""
        return self._sweep_watch.spans

    def generate(
        self, inputs: torch.Tensor | None = None, **keywords: object
    ) -> GenerateDecoderOnlyOutput | torch.Tensor:
        """Generate as transformers does; see `CausalLM.generate`."""
        self._pace.note_sweep(0)  # what went before is another request, with a pause between
        generated = super().generate(inputs, **keywords)
        if self.opened.options.profiling_mode:
            log.info("%s", json.dumps(self.stats))
        return generated

    def stream(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        *,
        system: str | None = None,
        raw: bool = False,
        **sampling: object,
    ) -> TextStream:
        """Answer a prompt piece by piece.

        Args:
            prompt: A text, or the messages of a conversation as ``{"role", "content"}``.
            system: A system prompt, put in front.
            raw: Take the text as it is, without the chat template.
            **sampling: The fields of `Sampling`: ``max_new_tokens`` (256), ``temperature`` (0 is
                greedy), ``top_p``, ``top_k``, ``min_p``, ``repetition_penalty``, ``seed``,
                ``stop``. What is left out is as generation_config.json says.

        Raises:
            TokenizerError: if the prompt cannot be encoded.
            ValueError: if a value is out of range.
            BudgetError: if prompt and answer are longer than memory allows.
        """
        chosen = Sampling(**sampling)  # type: ignore[arg-type]
        tokenizer = self.tokenizer
        ids = torch.tensor([encode(tokenizer, prompt, system=system, raw=raw)])
        ends = stop_ids(
            self.opened.config.eos_token_ids, self.opened.files.generation_config, tokenizer
        )
        keywords = chosen.keywords()
        if ends:
            keywords |= {"eos_token_id": list(ends), "pad_token_id": ends[0]}
        tokens = self.stream_ids(ids, attention_mask=torch.ones_like(ids), **keywords)  # type: ignore[arg-type]
        return TextStream(
            tokens,
            tokenizer,
            prompt_tokens=ids.shape[1],
            stop_ids=ends,
            stops=chosen.stops,
            seed=chosen.seed,
        )

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        *,
        system: str | None = None,
        **sampling: object,
    ) -> str:
        """Return the whole answer to a conversation; arguments as in `stream`."""
        return "".join(self.stream(messages, system=system, **sampling))  # type: ignore[arg-type]

    def close(self) -> None:
        """Stop reading and give the memory back; the model cannot run afterwards."""
        files = self.opened.files.files
        try:
            if self.opened.options.is_real and not self.executor.is_closed:
                keep_settings(self.executor.weights.readahead, files)
                keep_experience(self.plan, files, self._pace.flow)
        finally:
            super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _settle_baseline(self) -> None:
        """Compare what the process takes without weights with what the plan assumed."""
        # first: it grows meanwhile, and a baseline that is too small would break the budget
        arena = self.executor.weights.readahead.stats()["arena_resident_bytes"]
        memory = self._peak.sample()
        taken = memory.total_bytes - arena
        if memory.total_bytes and self.opened.is_fresh:
            record_baseline(taken)
        log.debug("baseline: %d bytes taken, %d planned", taken, self.plan.baseline_bytes)


def _generation_config(opened: Opened, config: object) -> GenerationConfig:
    stored = dict(opened.files.generation_config)
    if stored:
        stored.pop("transformers_version", None)
        found = GenerationConfig.from_dict(stored)
    else:
        found = GenerationConfig.from_model_config(config)  # type: ignore[arg-type]
    ends = opened.config.eos_token_ids
    if found.eos_token_id is None and ends:
        found.eos_token_id = list(ends) if len(ends) > 1 else ends[0]
    if found.pad_token_id is None:
        # what transformers would choose too, with a warning at every call
        first = found.eos_token_id
        found.pad_token_id = first[0] if isinstance(first, list) else first
    return found
