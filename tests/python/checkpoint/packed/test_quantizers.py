"""What GPTQModel and auto-round pack is read as they read it: `make test-oracles` has both.

They bring torchao and datasets along, which `make test-python` does without: there these skip.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.checkpoint.packed import check_quantization

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

# not ours: what they and their dependencies warn of when they are imported
pytestmark = pytest.mark.filterwarnings("ignore")

MODULE = "model.layers.0.mlp.down_proj"
ROWS, COLS, GROUP = 96, 256, 64


@pytest.fixture
def linear() -> nn.Linear:
    made = nn.Linear(COLS, ROWS, bias=False)
    made.weight.data = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1))
    return made


def scales_and_zeros(bits: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    scales = (torch.rand(ROWS, COLS // GROUP, generator=generator) + 0.5) * 6 / (1 << bits)
    zeros = torch.randint(1, 1 << bits, (ROWS, COLS // GROUP), generator=generator)
    return scales.half(), zeros


def read(
    path: Path, module: nn.Module, settings: Mapping[str, object], decoded: Callable[..., Tensor]
) -> Tensor:
    """Write the buffers of a module as a checkpoint has them, and decode them."""
    config = {"model_type": "llama", "quantization_config": settings}
    check_quantization(config)
    (path / "config.json").write_text(json.dumps(config))
    named = {f"{MODULE}.{name}": part.contiguous() for name, part in module.state_dict().items()}
    save_file(named, path / "model.safetensors", metadata={"format": "pt"})
    return decoded(open_checkpoint(path), f"{MODULE}.weight")


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_of_gptqmodel(
    bits: int, in_order: bool, version: str, linear: nn.Linear, tmp_path: Path,
    decoded: Callable[..., Tensor],
) -> None:  # fmt: skip
    torch_linear = pytest.importorskip("gptqmodel.nn_modules.qlinear.torch")
    model = pytest.importorskip("gptqmodel.utils.model")
    config = pytest.importorskip("gptqmodel.quantization.config")
    module = torch_linear.TorchLinear(
        bits=bits, group_size=GROUP, sym=False, desc_act=not in_order, in_features=COLS,
        out_features=ROWS, bias=False,
    )  # fmt: skip
    index = torch.arange(COLS) // GROUP
    if not in_order:
        index = index[torch.randperm(COLS, generator=torch.Generator().manual_seed(3))]
    module.pack_original(linear, *scales_and_zeros(bits), index.int())
    module.post_init()
    expected = module.dequantize_weight().T
    if version == "gptq":
        model.convert_gptq_v2_to_v1_format_module(module, config.QuantizeConfig(bits=bits))
    settings = {
        "quant_method": "gptq", "checkpoint_format": version, "bits": bits, "group_size": GROUP,
        "desc_act": not in_order, "sym": False,
    }  # fmt: skip
    found = read(tmp_path, module, settings, decoded)
    assert torch.equal(found.half(), expected)
    assert (found - linear.weight).square().mean() < 0.3


def test_awq_of_gptqmodel(
    linear: nn.Linear, tmp_path: Path, decoded: Callable[..., Tensor]
) -> None:
    torch_awq = pytest.importorskip("gptqmodel.nn_modules.qlinear.torch_awq")
    packing = pytest.importorskip("gptqmodel.quantization.awq.utils.packing_utils")
    module = torch_awq.AwqTorchLinear(
        bits=4, group_size=GROUP, sym=False, desc_act=False, in_features=COLS, out_features=ROWS,
        bias=False,
    )  # fmt: skip
    scales, zeros = scales_and_zeros(4)
    # so that all numbers lie within the scales' reach: it packs without clipping
    spread, centre = scales.float().repeat_interleave(GROUP, 1), zeros.repeat_interleave(GROUP, 1)
    linear.weight.data = linear.weight.clamp(-centre * spread, (15 - centre) * spread)
    module.pack(linear, scales, zeros)
    expected = packing.dequantize_gemm(module.qweight, module.qzeros, module.scales, 4, GROUP).T
    settings = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP}
    found = read(tmp_path, module, settings, decoded)
    assert torch.equal(found.half(), expected)
    assert (found - linear.weight).abs().max() < spread.max()


@pytest.mark.parametrize(
    ("kind", "packing_format"),
    [
        ("qlinear_torch", "auto_round"),
        ("qlinear_torch", "auto_round:gptqmodel"),
        ("qlinear_torch_zp", "auto_round:auto_gptq"),
    ],
)
@pytest.mark.parametrize("bits", [4, 8])
def test_auto_round(
    bits: int, kind: str, packing_format: str, linear: nn.Linear, tmp_path: Path,
    decoded: Callable[..., Tensor],
) -> None:  # fmt: skip
    packing = pytest.importorskip(f"auto_round_extension.torch.{kind}")
    module = packing.QuantLinear(bits, GROUP, COLS, ROWS, bias=False)
    module.device = "cpu"  # its packing asks for one, and its constructor sets none
    scales, zeros = scales_and_zeros(bits)
    linear.weight.data = linear.weight.half().float()
    module.pack(linear, scales.float(), zeros.float(), None)
    settings = {
        "quant_method": "auto-round", "packing_format": packing_format, "bits": bits,
        "group_size": GROUP, "sym": False,
    }  # fmt: skip
    found = read(tmp_path, module, settings, decoded)
    expected = module(torch.eye(COLS)).T  # the product is all that it offers
    assert torch.equal(found.half(), expected.half())
    most = (1 << bits) - 1
    spread, centre = scales.float().repeat_interleave(GROUP, 1), zeros.repeat_interleave(GROUP, 1)
    within = linear.weight.clamp(-centre * spread, (most - centre) * spread)
    assert (found - within).abs().max() < spread.max()
