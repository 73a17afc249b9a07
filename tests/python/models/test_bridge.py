"""Models of transformers through its own layers, against transformers in memory.

Every test below fails with the mask, the positions or one bias left out: attention of these
weights is far from uniform.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Model

from airllm_rs.auto.bridging import read_any_config
from airllm_rs.errors import AirLLMError, CheckpointError, ConfigError, UnsupportedModelError
from airllm_rs.families.bridged import BridgedFamily
from bridged import GPT, KINDS, MULTIMODAL, bridged_checkpoint, bridged_oracle, rows
from fake_readahead import FakeReadahead
from loading import bridged_executor
from loading import load as load_any
from tiny import generate, prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

load = partial(load_any, bridged=True)
TOKENS = 21
CUTS = [(0, 13), (13, 14), (14, 15)]
MODES = ["resident", "ring below a layer", "chunks held"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute on one thread: for matrices this small, two only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Answers:
    """What transformers says."""

    path: Path
    logits: torch.Tensor
    padded: torch.Tensor
    cached: torch.Tensor | None
    tokens: torch.Tensor


def masked(ids: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    return mask


def decoded(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return logits of a prompt and some steps from a cache."""
    cache = None
    parts = []
    for start, stop in CUTS:
        step = model(ids[:, start:stop], cache=cache, use_cache=True)
        cache = step.cache
        parts.append(step.logits)
    return torch.cat(parts, dim=1)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Answers]:
    """Write a checkpoint and ask transformers, once for each kind."""
    known: dict[str, Answers] = {}

    def ask(name: str) -> Answers:
        if name not in known:
            kind = KINDS[name]
            path = bridged_checkpoint(kind.model_type, kind.keys, tmp_path_factory.mktemp("kind"))
            model = bridged_oracle(kind.model_type, path)
            ids = prompt(TOKENS, sequences=2)
            with torch.no_grad():
                known[name] = Answers(
                    path,
                    model(ids).logits,
                    model(ids, attention_mask=masked(ids)).logits[masked(ids).bool()],
                    decoded(model, ids) if kind.keeps_tokens else None,
                    generate(model, ids, **options(ids), use_cache=kind.keeps_tokens),
                )
        return known[name]

    return ask


def options(ids: torch.Tensor) -> dict[str, object]:
    return {
        "max_new_tokens": 6,
        "do_sample": False,
        "attention_mask": masked(ids),
        "eos_token_id": None,
        "pad_token_id": 0,
    }


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    """Compare relative to the scale of the logits."""
    scale = float(want.abs().max())
    torch.testing.assert_close(got, want, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", KINDS)
def test_the_model_is_transformers(name: str, mode: str, answers: Callable[[str], Answers]) -> None:
    want = answers(name)
    ids = prompt(TOKENS, sequences=2)
    with torch.no_grad(), load(want.path, mode) as model:
        assert_close(model(ids).logits, want.logits)
        if mode == "chunks held":
            order = KINDS[name].order
            assert bool(bridged_executor(model).family.why_by_chunk) == (order != "layers")
            # chunks of nine tokens are four of each sequence
            assert model.executor.sweeps == (6 if order == "chunks" else 1)
        got = model(ids, attention_mask=masked(ids)).logits[masked(ids).bool()]
        assert_close(got, want.padded)
        if want.cached is not None:
            assert_close(decoded(model, ids), want.cached)
        assert torch.equal(generate(model, ids, **options(ids)), want.tokens)


def test_there_are_many_kinds_and_a_row_for_each() -> None:
    assert len({kind.model_type for kind in KINDS.values()}) >= 25
    assert len(rows()) == len(KINDS)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo", "mixtral", "jetmoe", "gpt_oss", "zamba2"])
@pytest.mark.parametrize("mode", ["ring below a layer", "part resident", "on demand"])
def test_any_order_of_use_works_with_the_real_readahead(
    name: str, mode: str, answers: Callable[[str], Answers]
) -> None:
    want = answers(name)
    ids = prompt(TOKENS, sequences=2)
    with torch.no_grad(), load(want.path, mode, engine="buffered") as model:
        for _ in range(2):
            assert_close(model(ids).logits, want.logits)


def test_the_order_of_use_is_learned_in_one_sweep(answers: Callable[[str], Answers]) -> None:
    with torch.no_grad(), load(answers("jetmoe").path, "streamed") as model:
        readahead = model.executor.weights.readahead
        assert isinstance(readahead, FakeReadahead)
        model(prompt(5))
        assert len(readahead.schedules) > 1
        known = len(readahead.schedules)
        model(prompt(6))
        assert len(readahead.schedules) == known
        assert not readahead.demanded


@pytest.mark.parametrize("name", ["gpt2", "bloom", "mixtral", "mamba2"])
def test_bf16_is_what_transformers_computes(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = bridged_checkpoint(kind.model_type, kind.keys, tmp_path, dtype=torch.bfloat16)
    ids = prompt(TOKENS)
    with torch.no_grad(), load(path, "streamed", requested=None) as model:
        exact = bridged_oracle(kind.model_type, path)(ids).logits
        theirs = bridged_oracle(kind.model_type, path, torch.bfloat16)(ids).logits.float()
        ours = model(ids).logits
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()


@pytest.mark.parametrize("model_type", MULTIMODAL)
@pytest.mark.parametrize("mode", ["resident", "ring below a layer", "chunks held"])
def test_the_text_part_of_a_multimodal_model_runs(
    model_type: str, mode: str, tmp_path: Path
) -> None:
    path = bridged_checkpoint(model_type, MULTIMODAL[model_type], tmp_path)
    oracle = bridged_oracle(model_type, path)
    ids = prompt(TOKENS, sequences=2).clamp(max=99)
    with torch.no_grad(), load(path, mode) as model:
        assert_close(model(ids).logits, oracle(ids).logits)
        want = oracle(ids, attention_mask=masked(ids)).logits[masked(ids).bool()]
        assert_close(model(ids, attention_mask=masked(ids)).logits[masked(ids).bool()], want)
        tokens = generate(oracle, ids, **options(ids))
        assert torch.equal(generate(model, ids, **options(ids)), tokens)
        family = bridged_executor(model).family
        assert isinstance(family, BridgedFamily)
        assert any("vis" in name for name in family.left_out)
        assert not family.unused
        with pytest.raises(ValueError, match="only the text part"):
            model.generate(ids, pixel_values=torch.zeros(1, 3, 28, 28))
        with pytest.raises(ValueError, match="only the text part"):
            model(ids, pixel_values=torch.zeros(1, 3, 28, 28))


def test_names_without_the_prefix_of_the_head_model(tmp_path: Path) -> None:
    full = bridged_checkpoint("gpt2", GPT, tmp_path / "full")
    GPT2Model.from_pretrained(full).save_pretrained(tmp_path / "base")
    ids = prompt(9)
    with torch.no_grad(), load(tmp_path / "base") as model:
        assert "wte.weight" in model.plan.units[-1].name
        assert_close(model(ids).logits, bridged_oracle("gpt2", full)(ids).logits)


def test_hidden_states_are_those_of_transformers(answers: Callable[[str], Answers]) -> None:
    path = answers("gpt_neox").path
    ids = prompt(TOKENS)
    with torch.no_grad(), load(path, "chunks held") as model:
        want = bridged_oracle("gpt_neox", path)(ids, output_hidden_states=True).hidden_states
        got = model(ids, output_hidden_states=True).hidden_states
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("mode", ["streamed", "chunks held"])
@pytest.mark.parametrize("wanted", [1, 3, torch.tensor([2, 11, -1])])
def test_only_wanted_logits_are_made(
    mode: str, wanted: int | torch.Tensor, answers: Callable[[str], Answers]
) -> None:
    want = answers("gpt2").logits
    kept = want[:, -wanted:] if isinstance(wanted, int) else want[:, wanted]
    with torch.no_grad(), load(answers("gpt2").path, mode) as model:
        assert_close(model(prompt(TOKENS, sequences=2), logits_to_keep=wanted).logits, kept)


@pytest.mark.parametrize("name", ["gpt2", "mamba2"])
def test_an_interrupted_sweep_costs_no_token_or_is_told(
    name: str, answers: Callable[[str], Answers]
) -> None:
    ids = prompt(15, sequences=2)
    with torch.no_grad(), load(answers(name).path, "streamed") as model:
        want = decoded(model, ids)[:, 13:14]
        ids = ids[:, :14]
        cache = model(ids[:, :13], use_cache=True).cache

        def interrupt(done: int, _total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        bridged_executor(model).on_layer = interrupt
        with pytest.raises(KeyboardInterrupt):
            model(ids[:, 13:], cache=cache)
        bridged_executor(model).on_layer = None
        if name == "mamba2":
            with pytest.raises(AirLLMError, match="begin with a new one"):
                model(ids[:, 13:], cache=cache)
        else:
            assert_close(model(ids[:, 13:], cache=cache).logits, want)


def test_a_longer_request_gives_up_residents(answers: Callable[[str], Answers]) -> None:
    path = answers("gpt2").path
    ids = prompt(100, sequences=2)
    want = bridged_oracle("gpt2", path)(ids).logits
    with torch.no_grad(), load(path, "resident", context=16) as model:
        model(prompt(5))
        assert_close(model(ids).logits, want)


def test_weights_are_let_go_of_at_the_end(answers: Callable[[str], Answers]) -> None:
    with torch.no_grad(), load(answers("gpt2").path, "part resident") as model:
        model(prompt(5))
        readahead = model.executor.weights.readahead
        assert isinstance(readahead, FakeReadahead)
        assert not readahead.leased
    with pytest.raises(AirLLMError, match="closed"):
        model(prompt(5))


def changed(path: Path, to: Path, tensors: Mapping[str, torch.Tensor | None]) -> Path:
    """Copy a checkpoint with other tensors; None leaves one out."""
    shutil.copytree(path, to)
    kept = load_file(to / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor is None:
            del kept[name]
        else:
            kept[name] = tensor
    save_file(kept, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_what_does_not_fit_is_refused(answers: Callable[[str], Answers], tmp_path: Path) -> None:
    path = answers("mixtral").path
    gate = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    with (
        pytest.raises(CheckpointError, match=r"lacks model\.layers\.0\.self_attn\.q_proj\.weight"),
        load(changed(path, tmp_path / "a", {"model.layers.0.self_attn.q_proj.weight": None})),
    ):
        pass
    # one expert less than the router has
    with (
        pytest.raises(CheckpointError, match=r"w1\.weight.* cannot be made into"),
        load(changed(path, tmp_path / "b", {gate: None})),
    ):
        pass
    norm = {"model.norm.weight": torch.ones(63)}
    with (
        pytest.raises(
            CheckpointError, match=r"model.norm.weight has shape \[63\], expected \[64\]"
        ),
        load(changed(path, tmp_path / "c", norm)),
    ):
        pass
    whole = {"model.norm.weight": torch.ones(64, dtype=torch.int32)}
    with (
        pytest.raises(UnsupportedModelError, match="stored as I32"),
        load(changed(path, tmp_path / "d", whole)),
    ):
        pass


def test_an_override_that_nobody_reads_is_refused(answers: Callable[[str], Answers]) -> None:
    raw = json.loads((answers("gpt2").path / "config.json").read_text())
    assert read_any_config(raw, {"num_hidden_layers": 2}).num_hidden_layers == 2
    with pytest.raises(ConfigError, match="'no_such' is not read by transformers' GPT2Config"):
        read_any_config(raw, {"no_such": 2})


def test_extra_tensors_are_listed(answers: Callable[[str], Answers], tmp_path: Path) -> None:
    extra = {"model.strange.weight": torch.ones(3), "h.0.attn.masked_bias": torch.ones(1)}
    with load(changed(answers("gpt2").path, tmp_path / "a", extra)) as model:
        family = bridged_executor(model).family
        assert family.unused == ("model.strange.weight",)
        assert family.left_out == ("h.0.attn.masked_bias",)


@pytest.mark.parametrize(
    ("raw", "error", "says"),
    [
        ({"model_type": "mistrel"}, UnsupportedModelError, r"nearest that are: .*mistral"),
        ({"model_type": "qwen9", "auto_map": {"a": "b"}}, UnsupportedModelError, "never executed"),
        (
            {"model_type": "x", "architectures": ["OPTForCausalLM"]},
            UnsupportedModelError,
            r"OPTForCausalLM.*nearest that are: opt",
        ),
        ({"model_type": "vit"}, UnsupportedModelError, "not as a causal language model"),
        ({"model_type": "phi", "num_attention_heads": "many"}, ConfigError, "makes no 'phi'"),
    ],
)
def test_what_is_not_known_is_told(
    raw: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        read_any_config(raw)


def test_the_log_says_how_a_model_runs(
    answers: Callable[[str], Answers], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "airllm_rs"), load(answers("mamba2").path):
        pass
    assert "some layers keep a state" in caplog.text


def test_config_and_weights_of_tied_heads(answers: Callable[[str], Answers]) -> None:
    path = answers("gpt2").path
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    assert json.loads((path / "config.json").read_text())["model_type"] == "gpt2"
    with load(path) as model:
        assert model.plan.tied
