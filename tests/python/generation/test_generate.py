"""Every way of generating against transformers with the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import DynamicCache, PreTrainedTokenizerFast, set_seed
from transformers.generation.streamers import BaseStreamer

from loading import load
from tiny import VOCAB, generate, oracle, prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transformers import PreTrainedModel
    from transformers.generation.utils import GenerateDecoderOnlyOutput
    from transformers.modeling_outputs import CausalLMOutputWithPast

    from airllm_rs.generation.causal_lm import CausalLM

PAIR = prompt(21, sequences=2)
PADDED = torch.ones_like(PAIR)
PADDED[0, :5] = 0
ONE = PAIR[:1]
REPEATING = torch.cat([ONE, ONE, ONE[:, :4]], dim=1)

WAYS: dict[str, tuple[torch.Tensor, dict[str, object]]] = {
    "greedy, padded batch": (PAIR, {"attention_mask": PADDED}),
    "sampling": (
        PAIR,
        {
            "attention_mask": PADDED,
            "do_sample": True,
            "temperature": 1.3,
            "top_k": 30,
            "top_p": 0.9,
            "min_p": 0.01,
        },
    ),
    "processors": (
        PAIR,
        {"attention_mask": PADDED, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    ),
    "several answers": (ONE, {"do_sample": True, "num_return_sequences": 3}),
    "beams": (PAIR, {"attention_mask": PADDED, "num_beams": 3, "num_return_sequences": 2}),
    "sampled beams": (PAIR, {"attention_mask": PADDED, "num_beams": 3, "do_sample": True}),
    "prompt lookup": (REPEATING, {"prompt_lookup_num_tokens": 4, "max_new_tokens": 24}),
    "sampled prompt lookup": (
        REPEATING,
        {"prompt_lookup_num_tokens": 4, "max_new_tokens": 24, "do_sample": True},
    ),
    "without a cache": (PAIR, {"attention_mask": PADDED, "use_cache": False}),
    "prefill in chunks": (ONE, {"prefill_chunk_size": 8}),
    "minimum length": (ONE, {"min_new_tokens": 10, "eos_token_id": list(range(3, VOCAB))}),
}


@pytest.fixture(scope="module", params=["llama", "mistral"])
def models(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]
) -> Iterator[tuple[PreTrainedModel, CausalLM]]:
    """Transformers' model and ours of the same weights, ours streamed."""
    path = tiny_checkpoint(request.param)
    with load(path, "streamed") as ours:
        yield oracle(path), ours


def outcome(
    model: PreTrainedModel, ids: torch.Tensor, **options: object
) -> GenerateDecoderOnlyOutput:
    """Return all that ``model.generate`` tells."""
    result: GenerateDecoderOnlyOutput = model.generate(ids, **options)  # type: ignore[operator]
    return result


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_transformers(way: str, models: tuple[PreTrainedModel, CausalLM]) -> None:
    ids, options = WAYS[way]
    options = {"max_new_tokens": 12, "do_sample": False, **options}
    results = []
    for model in models:
        set_seed(11)
        results.append(generate(model, ids.clone(), **options))
    assert torch.equal(*results)


def test_finished_sequences_are_padded(models: tuple[PreTrainedModel, CausalLM]) -> None:
    theirs, ours = models
    options = {"max_new_tokens": 12, "do_sample": False}
    end = int(generate(ours, PAIR, **options)[0, 24])
    got = generate(ours, PAIR, eos_token_id=end, **options)
    assert torch.equal(got, generate(theirs, PAIR, eos_token_id=end, **options))
    assert (got[0, 25:] == 0).all()


def test_everything_asked_for_is_returned(models: tuple[PreTrainedModel, CausalLM]) -> None:
    options = {
        "max_new_tokens": 5,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
    }
    want, got = (outcome(model, PAIR, **options) for model in models)
    assert got.keys() == want.keys()
    assert torch.equal(got.sequences, want.sequences)
    torch.testing.assert_close(got.scores, want.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.logits, want.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(got.hidden_states, want.hidden_states, atol=1e-4, rtol=0)
    assert not got.sequences.is_inference()


class Recorder(BaseStreamer):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []
        self.has_ended = False

    def put(self, value: torch.Tensor) -> None:
        self.given.append(value.flatten().tolist())

    def end(self) -> None:
        self.has_ended = True


def test_a_streamer_gets_the_prompt_and_each_token(
    models: tuple[PreTrainedModel, CausalLM],
) -> None:
    recorders = [Recorder(), Recorder()]
    for model, recorder in zip(models, recorders, strict=True):
        generate(model, ONE, streamer=recorder, max_new_tokens=5, do_sample=False)
    assert recorders[1].given == recorders[0].given
    assert [len(part) for part in recorders[1].given] == [21, 1, 1, 1, 1, 1]
    assert recorders[1].has_ended


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one word per id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # StopStringCriteria looks for this word in the text of an unknown one
    words = {"abcdef": 0, **{f"w{index}": index for index in range(1, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="abcdef"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token="abcdef"
    )


def test_stop_strings_stop(
    models: tuple[PreTrainedModel, CausalLM], letters: PreTrainedTokenizerFast
) -> None:
    theirs, ours = models
    options = {"max_new_tokens": 12, "do_sample": False}
    stop = f"w{int(generate(ours, ONE, **options)[0, 25])}"
    want = generate(theirs, ONE, stop_strings=[stop], tokenizer=letters, **options)
    got = generate(ours, ONE, stop_strings=[stop], tokenizer=letters, **options)
    assert torch.equal(got, want)
    assert got.shape[1] < 33
    tokens = list(
        ours.stream_ids(
            ONE, stop_strings=[stop], tokenizer=letters, max_new_tokens=12, do_sample=False
        )
    )
    assert torch.equal(torch.cat(tokens), want[0, 21:])


def test_assisted_generation_works_both_ways(models: tuple[PreTrainedModel, CausalLM]) -> None:
    theirs, ours = models
    options = {"max_new_tokens": 10, "do_sample": False}
    want = generate(theirs, ONE, **options)
    assert torch.equal(generate(ours, ONE, assistant_model=theirs, **options), want)
    assert torch.equal(generate(theirs, ONE, assistant_model=ours, **options), want)


def test_a_cache_is_gone_on_with(models: tuple[PreTrainedModel, CausalLM]) -> None:
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True}
    results = []
    for model in models:
        first = outcome(model, ONE, **options)
        longer = torch.cat([first.sequences, prompt(4, seed=5)], dim=1)
        results.append(outcome(model, longer, cache=first.cache, **options).sequences)
    assert torch.equal(*results)


def test_a_cache_of_transformers_is_filled(models: tuple[PreTrainedModel, CausalLM]) -> None:
    theirs, ours = models
    options = {"max_new_tokens": 6, "do_sample": False}
    cache = DynamicCache(config=theirs.config)
    got = generate(ours, ONE, cache=cache, **options)
    assert torch.equal(got, generate(theirs, ONE, **options))
    assert cache.get_seq_length() == got.shape[1] - 1


def test_tokens_can_be_iterated_over(models: tuple[PreTrainedModel, CausalLM]) -> None:
    theirs, ours = models
    options = {"max_new_tokens": 6, "do_sample": True}
    set_seed(2)
    want = generate(theirs, PAIR, **options)[:, 21:]
    set_seed(2)
    steps = ours.stream_ids(PAIR, max_new_tokens=6, do_sample=True)
    before = ours.executor.sweeps
    first = next(steps)
    assert ours.executor.sweeps == before + 1
    assert torch.equal(torch.stack([first, *steps], dim=1), want)


def test_a_dropped_iterator_leaves_the_model_usable(
    models: tuple[PreTrainedModel, CausalLM],
) -> None:
    theirs, ours = models
    options = {"max_new_tokens": 6, "do_sample": False}
    steps = ours.stream_ids(ONE, max_new_tokens=6, do_sample=False)
    next(steps)
    del steps
    assert torch.equal(generate(ours, ONE, **options), generate(theirs, ONE, **options))


def test_logits_only_where_wanted(models: tuple[PreTrainedModel, CausalLM]) -> None:
    theirs, ours = models
    with torch.no_grad():
        want = theirs(PAIR).logits
        for wanted, rows in [(1, [20]), (3, [18, 19, 20]), (torch.tensor([20, 4]), [20, 4])]:
            got = ours(PAIR, logits_to_keep=wanted).logits
            torch.testing.assert_close(got, want[:, rows], atol=1e-4, rtol=0)


def test_embeddings_are_accepted_and_get_a_gradient(
    models: tuple[PreTrainedModel, CausalLM],
) -> None:
    theirs, _ = models
    rows = theirs.get_input_embeddings()(ONE).detach()
    gradients = []
    for model in models:
        inputs = rows.clone().requires_grad_()
        output: CausalLMOutputWithPast = model(inputs_embeds=inputs, use_cache=False)
        assert output.logits is not None
        output.logits[0, -1].square().mean().backward()  # type: ignore[no-untyped-call]
        gradients.append(inputs.grad)
    scale = float(gradients[0].abs().max())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4 * scale, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda model: generate(model, ONE, cache_implementation="static", max_new_tokens=3),
            "static",
        ),
        (lambda model: model(ONE, attention_mask=torch.ones(1, 3)), "attention_mask"),
        (lambda model: model(), "input_ids"),
        (lambda model: model(ONE[:, :0]), "no tokens"),
        (lambda model: model(ONE, output_attentions=True), "output_attentions"),
        (lambda model: model(torch.tensor([[1, VOCAB]])), "token ids|out of range"),
        (lambda model: list(model.stream_ids(ONE, num_beams=2, max_new_tokens=3)), "beams"),
        (lambda model: model.to(torch.float16), "from_pretrained"),
        (lambda model: model.save_pretrained("somewhere"), "nothing to save"),
        (lambda model: generate(model, ONE, max_new_token=3), "max_new_token"),
    ],
)
def test_what_cannot_be_is_an_error(
    call: Callable[[CausalLM], object], words: str, models: tuple[PreTrainedModel, CausalLM]
) -> None:
    _, ours = models
    with pytest.raises(Exception, match=words):
        call(ours)
    assert ours(ONE, logits_to_keep=1).logits.isfinite().all()
