"""Products with packed weights: gradients, and what a failure leaves behind."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from airllm_rs.layers.linear import Linear, multiply_together
from airllm_rs.memory import PlanLimits
from airllm_rs.weights.readahead import unit_parts
from airllm_rs.weights.source import WeightSource
from fake_readahead import FakeReadahead
from loading import Mode, make_plan, open_files
from packed_checkpoints import packed_checkpoint
from packed_formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODES = {
    "resident": Mode(1),
    "streamed": Mode(0, PlanLimits(resident_below=0, group_bytes=0), prefetching=False),
    "blocks of rows": Mode(0, PlanLimits(8 << 10, 0, resident_below=0), prefetching=False),
    # scales stay in memory, and each block of rows has its share of them
    "small parts kept": Mode(
        0, PlanLimits(16 << 10, 0, resident_below=12 << 10), prefetching=False
    ),
}
LAYER = "model.layers.0.mlp."


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    written: dict[str, tuple[Path, Path]] = {}

    def write(name: str) -> tuple[Path, Path]:
        if name not in written:
            written[name] = packed_checkpoint(tmp_path_factory.mktemp("packed"), name)
        return written[name]

    return write


def source(path: Path, mode: Mode) -> WeightSource:
    files = open_files(path)
    plan = make_plan(files, mode, arithmetic="F32")
    readahead = FakeReadahead(
        files.files,
        [unit_parts(unit) for unit in plan.units],
        residents=plan.residents,
        ring_bytes=plan.ring_bytes,
    )
    return WeightSource(
        plan,
        readahead,  # type: ignore[arg-type]
        compute_dtype=torch.float32,
        prefetching=mode.prefetching,
    )


def linear(weights: WeightSource, name: str, layer: str = LAYER) -> Linear:
    matrix = weights.matrix(f"{layer}{name}.weight")
    made = Linear(matrix.shape[1], matrix.shape[0], bias=True)
    generator = torch.Generator().manual_seed(3)
    bias = torch.randn(matrix.shape[0], generator=generator)
    made.bias = torch.nn.Parameter(bias, requires_grad=False)
    made.attach(matrix, torch.float32)
    made.bind(torch.float32)
    return made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FORMATS)
def test_gradients_are_those_of_the_unpacked_matrix(
    name: str, mode: str, made: Callable[[str], tuple[Path, Path]]
) -> None:
    path, plain = made(name)
    numbers = load_file(plain / "model.safetensors")
    weights = source(path, MODES[mode])
    gate, up, down = (linear(weights, part) for part in ("gate_proj", "up_proj", "down_proj"))
    for rows in (3, 40):  # few are multiplied packed
        generator = torch.Generator().manual_seed(rows)
        x = torch.randn(1, rows, 256, generator=generator).requires_grad_()
        towards = torch.randn(1, rows, 256, generator=generator)

        first, second = multiply_together(x, (gate, up))
        out = down(torch.tanh(first) * second)
        (found,) = torch.autograd.grad(out, x, towards)

        a, b = (
            functional.linear(x, numbers[f"{LAYER}{part}.weight"], module.bias)
            for part, module in (("gate_proj", gate), ("up_proj", up))
        )
        gated = torch.tanh(a) * b
        expected = functional.linear(gated, numbers[f"{LAYER}down_proj.weight"], down.bias)
        (want,) = torch.autograd.grad(expected, x, towards)

        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
        scale = float(want.abs().max())
        torch.testing.assert_close(found, want, atol=1e-5 * scale, rtol=1e-5)
        assert weights.readahead.leased == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["gptq", "awq", "packed asymmetric", "bnb nf4", "fp8 blocks"])
def test_two_streamed_matrices_of_one_unit_are_both_what_they_are(
    name: str, tmp_path: Path
) -> None:
    path, plain = packed_checkpoint(tmp_path, name, num_hidden_layers=8)
    numbers = load_file(plain / "model.safetensors")
    weights, layer = of_one_unit(path)
    gate, up = linear(weights, "gate_proj", layer), linear(weights, "up_proj", layer)
    for rows in (3, 40):
        x = torch.randn(rows, 256, generator=torch.Generator().manual_seed(rows))
        found = multiply_together(x, (gate, up))
        for out, module, part in zip(found, (gate, up), ("gate", "up"), strict=True):
            matrix = numbers[f"{layer}{part}_proj.weight"]
            expected = functional.linear(x, matrix, module.bias)
            torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
        weights.release()  # the third matrix of the unit is not used


def of_one_unit(path: Path) -> tuple[WeightSource, str]:
    """Return a source, and a layer whose first two matrices of the network stream as one unit."""
    for kib in range(60, 420, 20):
        limits = PlanLimits(resident_below=0, group_bytes=kib << 10)
        weights = source(path, Mode(0.5, limits, prefetching=False))
        for number in range(8):
            layer = f"model.layers.{number}.mlp."
            matrices = [weights.matrix(f"{layer}{name}_proj.weight") for name in ("gate", "up")]
            units = {block.unit for matrix in matrices for block in matrix.blocks}
            if len(units) == 1 and not matrices[0].is_resident:
                return weights, layer
    raise AssertionError("no plan has them in one unit")


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_a_read_that_fails_is_what_is_raised(
    needs_gradient: bool, rows: int, made: Callable[[str], tuple[Path, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    weights = source(made("gptq")[0], MODES["streamed"])
    gate = linear(weights, "gate_proj")
    x = torch.randn(rows, 256).requires_grad_(needs_gradient)

    def fail(unit: int) -> memoryview:
        raise OSError(errno.EIO, os.strerror(errno.EIO), f"unit {unit}")

    with monkeypatch.context() as patch:
        patch.setattr(weights.readahead, "take", fail)
        with pytest.raises(OSError, match="Input/output error"):
            gate(x)
    out = gate(x)
    if needs_gradient:
        with monkeypatch.context() as patch:
            patch.setattr(weights.readahead, "take", fail)
            with pytest.raises(OSError, match="Input/output error"):
                out.sum().backward()
        out.sum().backward()
    assert weights.readahead.leased == []  # type: ignore[attr-defined]
