"""The model class: transformers' generation on top of an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Never

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.modeling_outputs import CausalLMOutputWithPast

from airllm_rs.cache import KvCache
from airllm_rs.errors import AirLLMError
from airllm_rs.generation.loop import decode
from airllm_rs.stats import Timings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from transformers import Cache, LogitsProcessorList, PreTrainedTokenizerBase
    from transformers.generation.configuration_utils import GenerationMode
    from transformers.generation.streamers import BaseStreamer

    from airllm_rs.executors.executor import Executor
    from airllm_rs.memory import MemoryPlan


# How parameters of multimodal models begin that take something else than text.
_NOT_TEXT = ("pixel_", "image_", "video_", "input_features", "audio_", "feature_attention_mask")


class CausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """A causal language model whose weights are resident or streamed.

    Inputs are accepted on any device; answers come back on theirs. `generate` is transformers':
    it prepares inputs, logits processors and stopping criteria; greedy decoding and sampling run
    in our loop, beams and assisted generation in transformers'.
    """

    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(
        self,
        config: PreTrainedConfig,
        executor: Executor,
        *,
        generation_config: GenerationConfig | None = None,
    ) -> None:
        """Wrap ``executor``.

        Args:
            config: The model's configuration, as transformers parses it.
            executor: Runs the layers.
            generation_config: Defaults of `generate`; those of ``config`` if None.
        """
        super().__init__(config)
        self.executor = executor
        self.model = executor.tree.model
        self.lm_head = executor.tree.lm_head
        self.timings = Timings()
        if generation_config is not None:
            self.generation_config = generation_config
        self.eval()  # type: ignore[no-untyped-call]

    @property
    def device(self) -> torch.device:
        """Where the arithmetic happens."""
        return self.executor.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the arithmetic."""
        return self.executor.dtype

    @property
    def _uses_cache(self) -> bool:
        # some configurations of transformers lack the key
        return bool(self.config.to_dict().get("use_cache", True))

    @property
    def plan(self) -> MemoryPlan:
        """The memory plan in force."""
        return self.executor.plan

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: Cache | None = None,
        **others: object,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """Run one sweep (a long prompt may take several) and return logits in float32.

        Args:
            input_ids: Token ids of shape (B, T).
            attention_mask: Of shape (B, cached + T), zero where a sequence is padded.
            position_ids: Of shape (B or 1, T); counted from the cache if None.
            cache: Earlier tokens; takes these too.
            inputs_embeds: Of shape (B, T, hidden), in place of ``input_ids``.
            use_cache: Return a cache; the configuration decides if None.
            logits_to_keep: The last so many tokens get logits, 0 for all; or indices into T.
            output_hidden_states: Return what each layer returns.
            output_attentions: Not supported: attention never has its weights as a tensor.
            return_dict: False for a tuple.
            past_key_values: Another name of ``cache``.
            **others: Nothing: what else a model of transformers may take is refused.
        """
        _refuse_others(others)
        if unknown := next((name for name, value in others.items() if value is not None), None):
            raise TypeError(f"forward() does not take {unknown!r}")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if cache is not None and past_key_values is not None:
            raise ValueError("cache and past_key_values are the same; give one of them")
        if output_attentions:
            raise ValueError("output_attentions is not supported: its kernel keeps no weights")
        cache = past_key_values if cache is None else cache
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None, "checked above"
        inputs = given.to(self.device)
        batch, tokens = inputs.shape[:2]
        if tokens == 0:
            raise ValueError("there are no tokens to run")
        past = 0 if cache is None else cache.get_seq_length()
        if cache is None and (self._uses_cache if use_cache is None else use_cache):
            cache = self.new_cache(batch, tokens)
        else:
            self._admit(batch, past + tokens, cache)
        states: list[Tensor] | None = [] if output_hidden_states else None
        logits = self.executor.sweep(
            inputs.to(self.dtype) if inputs.is_floating_point() else inputs,
            positions=None if position_ids is None else position_ids.to(self.device),
            valid=self._valid(attention_mask, past + tokens),
            cache=cache,
            wanted=logits_to_keep,
            hidden_states=states,
        ).to(given.device)
        output = CausalLMOutputWithPast(
            logits=logits,
            cache=cache,
            hidden_states=None if states is None else tuple(states),
        )
        return output.to_tuple() if return_dict is False else output

    def new_cache(self, sequences: int, tokens: int) -> Cache | None:
        """Return an empty cache for ``sequences`` of at least ``tokens``; None if there is no such.

        All that the plan holds is reserved; it is only taken as it fills.
        """
        self._admit(sequences, tokens, None)
        planned = self.plan.context * self.plan.max_num_seqs // sequences
        return self.executor.new_cache(max(tokens, planned))

    def generate(
        self, inputs: Tensor | None = None, **kwargs: object
    ) -> GenerateDecoderOnlyOutput | Tensor:
        """Generate as transformers does; its documentation holds, ids may be on any device."""
        _refuse_others(kwargs)
        given = next(
            (tensor for tensor in (inputs, *kwargs.values()) if isinstance(tensor, Tensor)), None
        )
        if given is None or given.device == self.device:
            return super().generate(inputs, **kwargs)  # type: ignore[no-any-return]
        moved = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in kwargs.items()
        }
        result = super().generate(None if inputs is None else inputs.to(self.device), **moved)
        if isinstance(result, Tensor):
            return result.to(given.device)
        result.sequences = result.sequences.to(given.device)
        return result  # type: ignore[no-any-return]

    def stream_ids(
        self,
        inputs: Tensor,
        *,
        stop_strings: str | list[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        **kwargs: object,
    ) -> Iterator[Tensor]:
        """Yield the new token of each sequence, (B,), as it is made.

        Takes what `generate` takes for greedy decoding and sampling, without a streamer. Dropping
        the iterator ends the generation.
        """
        criteria = StoppingCriteriaList(stopping_criteria or [])
        if stop_strings is not None:
            if tokenizer is None:
                raise ValueError("stop_strings needs tokenizer= as well")
            # generate() loses the tokenizer when it is given a decoding method
            criteria.append(StopStringCriteria(tokenizer, stop_strings))
        device = inputs.device
        steps: Iterator[Tensor] = super().generate(
            inputs.to(self.device),
            stopping_criteria=criteria,
            custom_generate=_tokens,
            **kwargs,
        )
        return (tokens.to(device) for tokens in steps)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        **kwargs: object,
    ) -> dict[str, object]:
        """Return what the next step runs on, all tokens where the cached keys no longer do.

        Args:
            input_ids: All tokens so far, (B, S).
            next_sequence_length: How many of them are new; None for all.
            cache: The others.
            kwargs: What else transformers prepares.
        """
        length = self.executor.changes_past
        past = 0 if cache is None else cache.get_seq_length()
        if length is not None and 0 < past <= length < input_ids.shape[1]:
            # as transformers does it for Phi-3: once, the whole sequence is run again
            next_sequence_length = None
            if isinstance(cache, KvCache):
                cache.reset()
            else:
                cache = None
        return super().prepare_inputs_for_generation(  # type: ignore[no-any-return]
            input_ids, next_sequence_length=next_sequence_length, cache=cache, **kwargs
        )

    def close(self) -> None:
        """Stop reading and give the memory back; the model cannot run afterwards."""
        self.executor.close()

    def _sample(  # type: ignore[override]
        self,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **model_kwargs: object,
    ) -> GenerateDecoderOnlyOutput | Tensor:
        """Run our loop in place of transformers'.

        This is where `generate` looks for greedy decoding and sampling. A ``custom_generate`` in
        its place would get neither the streamer nor, for stop strings, the tokenizer.
        """
        config = generation_config
        wants_dict = config.return_dict_in_generate
        scores: list[Tensor] = []
        logits: list[Tensor] = []
        states: list[tuple[Tensor, ...] | None] = []
        step = None
        for step in decode(
            self,
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=config,
            **model_kwargs,
        ):
            if streamer is not None:
                streamer.put(step.tokens.cpu())  # type: ignore[no-untyped-call]
            if wants_dict and config.output_scores:
                scores.append(step.scores)
            if wants_dict and config.output_logits:
                logits.append(step.logits)
            if wants_dict and config.output_hidden_states:
                states.append(step.hidden_states)
        assert step is not None, "the loop makes at least one token"
        if streamer is not None:
            streamer.end()  # type: ignore[no-untyped-call]
        if not wants_dict:
            return step.sequences
        return GenerateDecoderOnlyOutput(
            sequences=step.sequences,  # type: ignore[arg-type]
            scores=tuple(scores) if config.output_scores else None,  # type: ignore[arg-type]
            logits=tuple(logits) if config.output_logits else None,  # type: ignore[arg-type]
            hidden_states=tuple(states) if config.output_hidden_states else None,  # type: ignore[arg-type]
            cache=step.cache,
        )

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, object],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation!r} is not "
                "supported; leave it out: the KV cache is reserved by the memory plan"
            )
        if model_kwargs.get("cache") is not None or generation_config.use_cache is False:
            return
        copies = max(generation_config.num_beams or 1, generation_config.num_return_sequences or 1)
        cache = self.new_cache(batch_size * copies, max_cache_length + 1)
        if cache is None:
            model_kwargs["use_cache"] = generation_config.use_cache = False
            return
        if generation_config.is_assistant:
            cache.activate_past_recording()  # type: ignore[no-untyped-call]
        model_kwargs["cache"] = cache

    def _admit(self, sequences: int, tokens: int, cache: Cache | None) -> None:
        """Make sure that the plan holds so many tokens, and ``cache`` as well."""
        if self.executor.is_closed:
            raise AirLLMError("the model is closed")
        self.executor.make_room(tokens, sequences)
        if isinstance(cache, KvCache) and tokens > cache.capacity:
            planned = self.plan.context * self.plan.max_num_seqs // sequences
            cache.reserve(max(tokens, planned))

    def _valid(self, attention_mask: Tensor | None, length: int) -> Tensor | None:
        if attention_mask is None:
            return None
        if attention_mask.dim() != 2 or attention_mask.shape[1] != length:
            raise ValueError(
                f"attention_mask must be of shape (B, {length}), one entry for each cached and "
                f"new token; it is of shape {tuple(attention_mask.shape)}"
            )
        valid = attention_mask.to(self.device, torch.bool)
        return None if bool(valid.all()) else valid

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Never:
        raise AirLLMError(
            "weights are placed by the memory plan; choose device and dtype in from_pretrained"
        )

    def save_pretrained(self, *args: object, **kwargs: object) -> Never:
        """Refuse: the weights are those of the checkpoint, which can be copied."""
        raise AirLLMError(
            "nothing to save: the weights are those of the checkpoint; copy its files"
        )


def _refuse_others(keywords: Mapping[str, object]) -> None:
    """Refuse what is no text."""
    for name, value in keywords.items():
        if value is not None and name.startswith(_NOT_TEXT):
            raise ValueError(
                f"{name} is not taken: only the text part of a model runs here; leave images, "
                "video and sound out"
            )


def _tokens(
    model: CausalLM,
    input_ids: Tensor,
    *,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: object,
) -> Iterator[Tensor]:
    if (generation_config.num_beams or 1) > 1:
        raise ValueError("beams cannot be streamed: use generate()")
    steps = decode(
        model,
        input_ids,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        **model_kwargs,
    )
    return (step.tokens for step in steps)
