"""The one decoding loop: greedy and sampling, for batches of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.generation.stopping_criteria import EosTokenCriteria

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import (
        Cache,
        GenerationConfig,
        LogitsProcessorList,
        StoppingCriteriaList,
    )

    from airllm_rs.generation.causal_lm import CausalLM


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the loop made."""

    tokens: Tensor
    """The new token of each sequence, (B,); padding where a sequence is finished."""
    sequences: Tensor
    """Prompt and all tokens so far, (B, S)."""
    logits: Tensor
    """As the model gave them, (B, V)."""
    scores: Tensor
    """As processed, (B, V)."""
    hidden_states: tuple[Tensor, ...] | None
    cache: Cache | None


def decode(
    model: CausalLM,
    input_ids: Tensor,
    *,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: object,
) -> Iterator[Step]:
    """Yield one step per new token until all sequences of ``input_ids`` (B, S) are finished.

    The arguments are those that ``generate`` prepares for a decoding method. Random numbers are
    drawn as transformers draws them, so that a seed means the same.
    """
    padding = generation_config._pad_token_tensor
    can_end = any(isinstance(criterion, EosTokenCriteria) for criterion in stopping_criteria)
    keeps_scores = generation_config.return_dict_in_generate and generation_config.output_scores
    all_scores: tuple[Tensor, ...] = ()
    model.timings.begin()
    unfinished = torch.ones(input_ids.shape[0], dtype=torch.long, device=input_ids.device)
    with torch.inference_mode():
        outputs = model._prefill(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            generation_config,
            model_kwargs,
            is_first_iteration=not generation_config.is_assistant,
        )
    while True:
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        # copied outside of inference mode: what callers get are ordinary tensors
        logits = outputs.logits[:, -1].to(input_ids.device, torch.float32, copy=True)
        hidden_states, cache = outputs.hidden_states, outputs.cache
        del outputs
        scores = logits_processor(input_ids, logits)  # type: ignore[arg-type]
        if generation_config.do_sample:
            odds = torch.softmax(scores, dim=-1)
            tokens = torch.multinomial(odds, num_samples=1).squeeze(1)
        else:
            tokens = torch.argmax(scores, dim=-1)
        if can_end and padding is not None:
            tokens = torch.where(unfinished.bool(), tokens, padding.to(tokens))
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
        if keeps_scores:
            all_scores += (scores,)
        stops = stopping_criteria(input_ids, all_scores if keeps_scores else None)
        unfinished = unfinished & ~stops
        is_last = not bool(unfinished.any())
        model.timings.note_token()
        yield Step(tokens, input_ids, logits, scores, hidden_states, cache)
        if is_last:
            return
        inputs = model.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=1 if model_kwargs["use_cache"] else None,
            **model_kwargs,  # type: ignore[arg-type]
        )
        with torch.inference_mode():
            outputs = model(**inputs, return_dict=True)
