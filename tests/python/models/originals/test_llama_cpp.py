"""llama.cpp against the numpy reference: a second judge of what both of them have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.originals import llama_cpp
from models.originals.cases import CASES, random_weights, tokens
from models.originals.configs import VOCAB

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.originals,
    pytest.mark.skipif(
        not llama_cpp.is_installed(), reason="xllamacpp is not here: make test-originals"
    ),
]

# llama.cpp knows Baichuan by its number of layers
LAYERS = {
    "chatglm2": 2,
    "chatglm3": 2,
    "chatglm, glm-4-9b": 2,
    "qwen": 2,
    "internlm2": 2,
    "baichuan-7b": 32,
    "baichuan2-7b": 32,
    "baichuan-13b": 40,
    "baichuan-13b, 6 heads": 40,
    "baichuan2-13b": 40,
}


@pytest.mark.parametrize("name", LAYERS)
def test_llama_cpp_is_the_reference(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    key = "num_layers" if "num_layers" in case.config else "num_hidden_layers"
    config = {**case.config, key: LAYERS[name]}
    weights = random_weights(config, seed=1)
    path = tmp_path / "model.gguf"
    llama_cpp.write(path, config, weights, norm_head=bool(case.overrides.get("norm_head")))
    logits = case.reference(config, weights)(tokens())[:, -1]
    want = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    got = llama_cpp.next_logprobs(path, tokens(), VOCAB)
    difference = np.abs(got - want).max()
    print(f"{name}: {difference:.1e}")  # noqa: T201 - shown by pytest -s
    assert difference <= 5e-5
