"""Stores of every scheme run as they lie: logits are those of the numbers that they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch

from loading import MODES, load
from store_making import SHAPE, make, plain_copy
from tiny import generate, oracle, prompt, tiny_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

SCHEMES = (None, "8bit", "4bit", "4bit-hq", "nf4")


class Made(NamedTuple):
    """A store, and transformers on what it means."""

    store: Path
    oracle: PreTrainedModel


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None, bool], Made]:
    written: dict[tuple[str | None, bool], Made] = {}

    def write(scheme: str | None, is_tied: bool) -> Made:
        key = scheme, is_tied
        if key not in written:
            path = tmp_path_factory.mktemp("store")
            shape = {**SHAPE, "tie_word_embeddings": is_tied}
            model_type = "llama" if is_tied else "qwen2"
            tiny_checkpoint(model_type, path / "model", dtype=torch.bfloat16, **shape)
            make(path / "model", path / "store", scheme=scheme)
            plain = plain_copy(path / "store", path / "plain")
            written[key] = Made(path / "store", oracle(plain))
        return written[key]

    return write


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_tied", [False, True], ids=["own head", "tied"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_model_is_transformers_with_the_weights_decoded(
    scheme: str | None, is_tied: bool, mode: str, made: Callable[[str | None, bool], Made]
) -> None:
    store, decoded = made(scheme, is_tied)
    ids = prompt(40)
    with torch.no_grad(), load(store, mode) as model:
        for some in (ids, ids[:, :3]):  # many rows are unpacked, few are multiplied packed
            want = decoded(some).logits
            torch.testing.assert_close(model(some).logits, want, atol=1e-3, rtol=0)
        options = {"max_new_tokens": 8, "do_sample": False}
        tokens = generate(decoded, ids, **options)
        assert torch.equal(generate(model, ids, **options), tokens)


@pytest.mark.parametrize("engine", ["uring", "direct", "buffered"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_the_engines_read_is_the_same_model(
    scheme: str | None, engine: str, made: Callable[[str | None, bool], Made]
) -> None:
    store, decoded = made(scheme, False)
    ids = prompt(40)
    with torch.no_grad(), load(store, "streamed", engine=engine) as model:
        want = decoded(ids).logits
        torch.testing.assert_close(model(ids).logits, want, atol=1e-3, rtol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bf16_arithmetic_is_close(
    scheme: str | None, made: Callable[[str | None, bool], Made]
) -> None:
    store, decoded = made(scheme, False)
    ids = prompt(12)
    with torch.no_grad(), load(store, "streamed", requested=None) as model:
        want = decoded(ids).logits
        got = model(ids).logits.float()
        assert model.dtype in (torch.bfloat16, torch.float32)
        assert (got - want).square().sum() < 1e-3 * want.square().sum()


def test_transformers_and_bitsandbytes_read_an_nf4_store_as_we_do(
    made: Callable[[str | None, bool], Made],
) -> None:
    nn = pytest.importorskip("bitsandbytes.nn")
    pytest.importorskip("accelerate")
    store, _ = made("nf4", False)
    theirs = oracle(store)
    assert theirs.get_parameter("model.layers.0.mlp.up_proj.weight").dtype == torch.uint8
    ids = prompt(20)
    packed = [module for module in theirs.modules() if isinstance(module, nn.Linear4bit)]
    assert len(packed) == 7 * theirs.config.num_hidden_layers
    # in float32 throughout: its kernel for AVX-512 rounds activations and scales to bf16
    for module in packed:
        module.support_avx512bf16_for_cpu = False
        module.compute_dtype, module.compute_type_is_set = torch.float32, True
    for name, tensor in (*theirs.named_parameters(), *theirs.named_buffers()):
        if tensor.is_floating_point() and not name.endswith(("absmax", "quant_map")):
            tensor.data = tensor.data.float()
    with torch.no_grad(), load(store, "streamed") as model:
        torch.testing.assert_close(model(ids).logits, theirs(ids).logits, atol=1e-3, rtol=0)
    # as config.json asks for it, with bf16's errors and no others
    theirs = oracle(store)
    with torch.no_grad(), load(store, "streamed") as model:
        want, got = theirs(ids).logits.float(), model(ids).logits
        assert (got - want).square().sum() < 5e-3 * want.square().sum()
