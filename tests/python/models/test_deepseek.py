"""DeepSeek's routers: what decides among experts is computed in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from loading import load
from models import in_tree
from models.architectures import error
from tiny import prompt

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("tokens", [5, 40])
@pytest.mark.parametrize("mode", ["resident", "streamed"])
def test_corrections_that_only_float32_tells_apart_decide(
    mode: str, tokens: int, tmp_path: Path
) -> None:
    path = in_tree.write("deepseek_v3", tmp_path, torch.bfloat16)
    weights = load_file(path / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith("e_score_correction_bias"):
            experts = torch.tensor([3, 7, 1, 5, 0, 6, 2, 4]).float()
            weights[name] = 1.0 + experts / 4096  # bfloat16 has 1 and 1.0078
        elif name.endswith("mlp.gate.weight"):
            weights[name] = torch.zeros_like(tensor)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    ids = prompt(tokens)
    with torch.no_grad(), load(path, mode, requested=None) as model:
        assert model.dtype is torch.bfloat16
        want = in_tree.model_of(path)(ids).logits.double()
        theirs = in_tree.model_of(path, torch.bfloat16)(ids).logits
        assert error(model(ids).logits, want) < 2 * error(theirs, want)


@pytest.mark.parametrize("tokens", [5, 40])
@pytest.mark.parametrize("kind", ["deepseek_v2", "deepseek_v3"])
def test_scores_are_not_rounded_to_bfloat16(kind: str, tokens: int, tmp_path: Path) -> None:
    path = in_tree.write(kind, tmp_path, torch.bfloat16)
    theirs = in_tree.model_of(path, torch.bfloat16)
    x = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(3)).bfloat16()
    with torch.no_grad(), load(path, "resident", requested=None) as model:
        model(prompt(3))
        gate = model.get_submodule("model.layers.1.mlp.gate")
        _, want_weights, want = theirs.get_submodule("model.layers.1.mlp.gate")(x)
        weights, chosen = gate(x)
    order, want_order = chosen.argsort(-1), want.argsort(-1)
    assert torch.equal(chosen.gather(1, order), want.gather(1, want_order))
    torch.testing.assert_close(
        weights.gather(1, order), want_weights.float().gather(1, want_order), atol=1e-5, rtol=1e-5
    )
