"""A real model, SmolLM2-135M-Instruct from its GGUF file, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from transformers import AutoConfig

from airllm_rs import AutoModel
from airllm_rs.errors import BudgetError
from gguf_oracle import dequantized
from tiny import generate

if TYPE_CHECKING:
    from airllm_rs.auto.model import Model

GGUF = Path(__file__).parents[3] / ".cache/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What is the capital of France?"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GGUF.exists(), reason="`make test` downloads the model"),
]


def load(**options: object) -> Model:
    return AutoModel.from_pretrained(GGUF, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference() -> list[int]:
    """64 greedy tokens of transformers in fp32, on the numbers of the file's blocks."""
    with load(dtype="float32") as model:
        config = AutoConfig.from_pretrained(model.opened.files.path)
        ids = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
        )
        inputs = model.tokenizer(ids, return_tensors="pt", add_special_tokens=False).input_ids
    oracle = dequantized(GGUF, config)
    tokens = generate(
        oracle, inputs, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=2
    )
    return tokens[0, inputs.shape[1] :].tolist()


@pytest.mark.parametrize("weights_memory", [None, "48MiB", "least"])
def test_64_greedy_tokens_are_those_of_transformers(
    weights_memory: str | None, reference: list[int]
) -> None:
    cap: int | str | None = weights_memory
    if weights_memory == "least":
        with pytest.raises(BudgetError) as refused:
            load(dtype="float32", weights_memory="1B")
        cap = refused.value.smallest_bytes
    with load(dtype="float32", weights_memory=cap, context=128) as model:
        assert model.plan.fits == (cap is None)
        prompt = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
        )
        ids = model.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        got = generate(
            model, ids, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=2
        )
    assert got[0, ids.shape[1] :].tolist() == reference


def test_the_capital_of_france_is_paris() -> None:
    with load(weights_memory="48MiB") as model:
        answer = model.stream(QUESTION, temperature=0, max_new_tokens=32)
        assert "Paris" in "".join(answer)
        assert answer.finish_reason == "stop"
        assert model.plan.streamed_bytes_per_sweep > 40 << 20
