"""The tests of families would notice: each part switched off in transformers shows in its logits.

The parts of families that transformers does not know are switched off in the numpy reference, in
``originals/test_reference.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from models import in_tree
from models.architectures import TOKENS
from tiny import prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

pytestmark = pytest.mark.usefixtures("one_thread")

SHOWS = 1e-2
"""A hundred times what tests of families allow, of the largest logit."""

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def still(model: PreTrainedModel) -> None:
    """Turn nothing: cosines of one, sines of zero."""
    rotary = model.get_submodule("model.rotary_emb")
    turned = rotary.forward

    def forward(*args: object, **keywords: object) -> Tensor | tuple[Tensor, Tensor]:
        out = turned(*args, **keywords)
        if isinstance(out, tuple):
            return torch.ones_like(out[0]), torch.zeros_like(out[1])
        return torch.ones_like(out)

    rotary.forward = forward


def filled(ending: str, value: float) -> Callable[[PreTrainedModel], None]:
    """Fill the parameters and buffers whose names end so."""

    def change(model: PreTrainedModel) -> None:
        found = [
            tensor
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
            if name.endswith(ending)
        ]
        assert found, f"nothing ends with {ending}"
        for tensor in found:
            tensor.data.fill_(value)

    return change


def removed(*names: str) -> Callable[[PreTrainedModel], None]:
    """Let modules of these names pass through what they get."""

    def change(model: PreTrainedModel) -> None:
        found = [
            (module, name)
            for module in model.modules()
            for name, _ in module.named_children()
            if name in names
        ]
        assert found, f"no module is called {names}"
        for module, name in found:
            setattr(module, name, nn.Identity())

    return change


PARTS: list[tuple[str, str, Callable[[PreTrainedModel], None]]] = [
    ("llama, tied, biases", "attention bias", filled("q_proj.bias", 0)),
    ("llama, tied, biases", "MLP bias", filled("up_proj.bias", 0)),
    ("qwen2", "bias", filled("k_proj.bias", 0)),
    ("qwen3", "norm of queries and keys", removed("q_norm", "k_norm")),
    ("qwen3_moe", "norm of queries and keys", removed("q_norm", "k_norm")),
    ("gemma3_text", "norm of queries and keys", removed("q_norm", "k_norm")),
    ("gemma2", "norms after", removed("post_feedforward_layernorm", "post_attention_layernorm")),
    ("gemma2", "scaled embeddings", filled("embed_scale", 1)),
    ("gemma3_text", "scaled embeddings", filled("embed_scale", 1)),
    ("glm", "bias", filled("q_proj.bias", 0)),
    ("glm4", "norms after", removed("post_self_attn_layernorm", "post_mlp_layernorm")),
    ("deepseek_v2", "norms of latents", removed("q_a_layernorm", "kv_a_layernorm")),
    ("deepseek_v3", "norms of latents", removed("q_a_layernorm", "kv_a_layernorm")),
    ("deepseek_v2", "shared experts", filled("shared_experts.down_proj.weight", 0)),
    ("deepseek_v3", "shared experts", filled("shared_experts.down_proj.weight", 0)),
    ("deepseek_v3", "correction of the router", filled("e_score_correction_bias", 0)),
    ("gpt_oss", "sinks", filled("sinks", -1e4)),
    ("gpt_oss", "bias of experts", filled("gate_up_proj_bias", 0)),
    ("gpt_oss", "bias of the router", filled("router.bias", 0)),
]

KEYS: list[tuple[str, str, dict[str, object]]] = [
    ("mistral", "window", {"sliding_window": 1000}),
    ("mixtral, window", "window", {"sliding_window": 1000}),
    ("phi3, window", "window", {"sliding_window": 1000}),
    ("qwen2, window", "window", {"sliding_window": 1000}),
    ("gemma2", "window", {"sliding_window": 1000}),
    ("gemma3_text", "window", {"sliding_window": 1000}),
    ("gpt_oss", "window", {"sliding_window": 1000}),
    ("gemma2", "cap of scores", {"attn_logit_softcapping": None}),
    ("gemma2", "cap of logits", {"final_logit_softcapping": None}),
    ("gemma2", "scale of queries", {"query_pre_attn_scalar": 16}),
    ("gemma3_text", "scale of queries", {"query_pre_attn_scalar": 16}),
    (
        "gemma3_text",
        "a base of its own in sliding layers",
        {
            "rope_parameters": {
                "sliding_attention": DEFAULT_ROPE,
                "full_attention": {**DEFAULT_ROPE, "rope_type": "linear", "factor": 4.0},
            }
        },
    ),
    (
        "phi3, partial longrope",
        "long factors",
        {"rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 0.75}},
    ),
    ("glm", "half heads", {"rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 1.0}}),
    ("glm4", "half heads", {"rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 1.0}}),
    ("mixtral", "second expert", {"num_experts_per_tok": 1}),
    ("qwen3_moe", "sum of chosen weights", {"norm_topk_prob": False}),
    ("deepseek_v2", "groups of experts", {"topk_method": "greedy"}),
    ("deepseek_v2", "scale of experts", {"routed_scaling_factor": 1.0}),
    ("deepseek_v2, yarn", "YaRN", {"rope_parameters": DEFAULT_ROPE}),
    ("deepseek_v3", "groups of experts", {"n_group": 1, "topk_group": 1}),
    ("deepseek_v3", "scale of experts", {"routed_scaling_factor": 1.0}),
    ("deepseek_v3", "sum of chosen weights", {"norm_topk_prob": False}),
    ("deepseek_v3", "interleaved rotation", {"rope_interleave": False}),
    ("deepseek_v3, yarn", "YaRN", {"rope_parameters": DEFAULT_ROPE}),
    ("gpt_oss", "YaRN", {"rope_parameters": DEFAULT_ROPE}),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Tensor]]:
    """Write a kind once, and return its path and its logits."""
    known: dict[str, tuple[Path, Tensor]] = {}

    def make(kind: str) -> tuple[Path, Tensor]:
        if kind not in known:
            path = in_tree.write(kind, tmp_path_factory.mktemp("kind"))
            known[kind] = path, logits(in_tree.model_of(path))
        return known[kind]

    return make


def logits(model: PreTrainedModel) -> Tensor:
    return in_tree.logits(model, prompt(TOKENS, sequences=2), [(0, TOKENS)], None)


def shows(got: Tensor, want: Tensor) -> bool:
    return float((got - want).abs().max() / want.abs().max()) > SHOWS


@pytest.mark.parametrize("kind", in_tree.KINDS)
def test_rotation_shows(kind: str, checkpoint: Callable[[str], tuple[Path, Tensor]]) -> None:
    path, want = checkpoint(kind)
    model = in_tree.model_of(path)
    still(model)
    assert shows(logits(model), want)


@pytest.mark.parametrize("kind", in_tree.KINDS)
def test_the_mask_shows(kind: str, checkpoint: Callable[[str], tuple[Path, Tensor]]) -> None:
    path, want = checkpoint(kind)
    everything = torch.zeros(2, 1, TOKENS, TOKENS)
    with torch.no_grad():
        got = in_tree.model_of(path)(prompt(TOKENS, sequences=2), everything).logits
    assert shows(got, want)


@pytest.mark.parametrize(
    ("kind", "change"), [pytest.param(k, c, id=f"{k}: {part}") for k, part, c in PARTS]
)
def test_a_part_shows(
    kind: str,
    change: Callable[[PreTrainedModel], None],
    checkpoint: Callable[[str], tuple[Path, Tensor]],
) -> None:
    path, want = checkpoint(kind)
    model = in_tree.model_of(path)
    change(model)
    assert shows(logits(model), want)


@pytest.mark.parametrize(
    ("kind", "keys"), [pytest.param(k, c, id=f"{k}: {part}") for k, part, c in KEYS]
)
def test_a_key_of_the_configuration_shows(
    kind: str, keys: dict[str, object], checkpoint: Callable[[str], tuple[Path, Tensor]]
) -> None:
    path, want = checkpoint(kind)
    assert shows(logits(in_tree.model_of(path, keys=keys)), want)
