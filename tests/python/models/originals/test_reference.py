"""The numpy reference against recorded logits of the makers' code, and against transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.in_tree import logits as in_tree_logits
from models.originals.cases import (
    CASES,
    PADDING,
    PREFILL,
    STEPS,
    TOKENS,
    padded,
    reference_logits,
    tokens,
    weights,
)
from models.originals.configs import LAYERS
from models.originals.golden import RECORDED, recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-5
"""Float32 against float64; the largest difference seen is 9e-6, of logits up to 4."""
SHOWS = 1e-2
"""A hundred times what tests of the package allow."""

WITHOUT_CODE = {"qwen, first revision", "internlm, dynamic", "internlm3", "internlm3, dynamic"}
"""Cases of families whose code is not in the package that the recorded logits come from."""

CHANGES_WITH_LENGTH = ("qwen, past its length", "qwen, first revision", "dynamic")


@pytest.mark.parametrize("name", sorted(CASES.keys() - WITHOUT_CODE))
def test_the_reference_is_the_makers_code(name: str) -> None:
    found = recorded(name)
    assert "decode" in found
    for key, (calls, is_padded, first) in RECORDED.items():
        if key not in found:
            assert is_padded
            assert "baichuan-13b" in name
            continue
        want = found[key]
        got = reference_logits(name, calls, is_padded=is_padded)[:, first:]
        kept = padded()[:, first:].astype(bool) if is_padded else np.ones(got.shape[:2], bool)
        np.testing.assert_allclose(got[kept], want[kept], rtol=0, atol=TOLERANCE)


def test_the_first_revision_of_qwen_is_qwen_with_other_keys() -> None:
    first, later = CASES["qwen, first revision"], CASES["qwen, past its length"]
    tensors = weights("qwen, first revision")
    got = first.reference(first.config, tensors)(tokens())
    np.testing.assert_array_equal(got, later.reference(later.config, tensors)(tokens()))


def llama(name: str, layers: int = LAYERS) -> LlamaForCausalLM:
    """Return the first layers of a case as the Llama that they are, but for what is cached."""
    config = {**CASES[name].config, "num_hidden_layers": layers}
    scaling = config.get("rope_scaling") or {}
    assert isinstance(scaling, dict)
    rope = {"rope_type": "default", "rope_theta": float(str(config.get("rope_theta", 1e4)))}
    if name == "internlm, dynamic":
        scaling = {"factor": 1.0}
    if scaling:
        rope |= {"rope_type": "dynamic", "factor": scaling["factor"]}
    keys = {
        key: value
        for key, value in config.items()
        if key in LlamaConfig().to_dict() and key not in ("architectures", "model_type")
    }
    del keys["transformers_version"]
    settings: Any = {
        **keys,
        "attention_bias": config["bias"],
        "mlp_bias": False,
        "rope_parameters": rope,
        "head_dim": 16,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings))
    state = {key: torch.from_numpy(tensor) for key, tensor in weights(name).items()}
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    model.eval()  # type: ignore[no-untyped-call]
    return model


@pytest.mark.parametrize("name", ["internlm", "internlm3", "internlm3, dynamic"])
@pytest.mark.parametrize("calls", [[(0, TOKENS)], STEPS], ids=["prefill", "decode"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_what_is_llama_by_another_name_is_transformers_llama(
    name: str, calls: Sequence[tuple[int, int]], is_padded: bool
) -> None:
    mask = padded()
    given = torch.from_numpy(mask) if is_padded else None
    want = in_tree_logits(llama(name), torch.from_numpy(tokens()), calls, given).numpy()
    got = reference_logits(name, calls, is_padded=is_padded)
    kept = mask.astype(bool) if is_padded else np.ones_like(mask, bool)
    np.testing.assert_allclose(got[kept], want[kept], rtol=0, atol=TOLERANCE)


def test_internlm_turns_all_keys_anew_when_its_base_grows() -> None:
    # of one layer: what deeper ones keep was computed from older rotations
    name = "internlm, dynamic"
    case = CASES[name]
    model = case.reference({**case.config, "num_hidden_layers": 1}, weights(name))
    ids = torch.from_numpy(tokens())
    for start, stop in STEPS:
        step = model(tokens()[:, start:stop])
        fresh = in_tree_logits(llama(name, 1), ids[:, :stop], [(0, stop)], None)
        np.testing.assert_allclose(step[:, -1], fresh[:, -1].numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_a_call_more_changes_nothing_where_the_rotation_stays(name: str) -> None:
    whole, steps = reference_logits(name), reference_logits(name, STEPS)
    if any(part in name for part in CHANGES_WITH_LENGTH):
        assert np.abs(whole - steps).max() > SHOWS * np.abs(whole).max()
    else:
        np.testing.assert_allclose(whole, steps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_padding_is_not_seen(name: str) -> None:
    case = CASES[name]
    batch = reference_logits(name, is_padded=True)
    alone = case.reference(case.config, weights(name))(tokens()[:1, PADDING:])
    if any(part in name for part in CHANGES_WITH_LENGTH):
        # the makers' code takes lengths from the padded batch
        alone = alone[:, :1]
    np.testing.assert_allclose(
        batch[0, PADDING : PADDING + alone.shape[1]], alone[0], rtol=0, atol=1e-12
    )


SWITCHES = [
    *((name, "mask") for name in CASES),
    *((name, "rope") for name in CASES if "13b" not in name),
    *((name, "alibi") for name in CASES if "13b" in name),
    *((name, "norm_head") for name in CASES if name.startswith("baichuan2")),
    *((name, "bias") for name in CASES if name.startswith(("chatglm", "qwen"))),
    ("internlm", "bias"),
    ("internlm2, biases", "bias"),
    *((name, "ntk") for name in CASES if "dynamic" in name),
    ("qwen, past its length", "ntk"),
    ("qwen, past its length", "logn"),
    ("qwen, first revision", "ntk"),
    ("qwen, first revision", "logn"),
]


@pytest.mark.parametrize(("name", "switch"), SWITCHES)
def test_tests_would_notice_what_is_missing(name: str, switch: str) -> None:
    want = reference_logits(name)
    got = reference_logits(name, without=[switch])
    assert np.abs(got - want).max() > SHOWS * np.abs(want).max()


@pytest.mark.parametrize("switch", ["ntk", "logn"])
def test_a_decode_past_the_length_of_qwen_shows_a_lack(switch: str) -> None:
    name = "qwen, past its length"
    want = reference_logits(name, STEPS)
    got = reference_logits(name, STEPS, without=[switch])
    if switch == "ntk":  # the prompt is short: its base is the base
        np.testing.assert_array_equal(got, want)
        wrong = reference_logits(name)[:, PREFILL:]  # as if the base followed the length
        assert np.abs(wrong - want[:, PREFILL:]).max() > SHOWS * np.abs(want).max()
    else:
        assert np.abs(got - want).max() > SHOWS * np.abs(want).max()
