"""The weight source: who holds which lease for how long, and which bits are multiplied."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from airllm_rs.errors import LeaseHeld
from airllm_rs.families.family import EMBEDDING
from airllm_rs.layers.linear import Linear, multiply
from airllm_rs.memory import PlanLimits
from airllm_rs.weights.readahead import unit_parts
from airllm_rs.weights.source import WeightSource
from fake_readahead import FakeReadahead
from loading import MODES, Mode, make_plan, open_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
SMALL = PlanLimits(resident_below=0, group_bytes=0)


def source(
    path: Path, mode: Mode, *, arithmetic: str = "F32", ring_bytes: int | None = None
) -> tuple[WeightSource, FakeReadahead]:
    files = open_files(path)
    plan = make_plan(files, mode, arithmetic=arithmetic)
    readahead = FakeReadahead(
        files.files,
        [unit_parts(unit) for unit in plan.units],
        residents=plan.residents,
        ring_bytes=plan.ring_bytes if ring_bytes is None else ring_bytes,
    )
    dtype = {"F32": torch.float32, "BF16": torch.bfloat16}[arithmetic]
    weights = WeightSource(
        plan,
        readahead,  # type: ignore[arg-type]
        compute_dtype=dtype,
        prefetching=mode.prefetching,
    )
    return weights, readahead


@pytest.mark.parametrize("mode", MODES)
def test_every_tensor_is_the_checkpoints(mode: str, tiny_checkpoint: Callable[..., Path]) -> None:
    path = tiny_checkpoint("qwen2")
    weights, readahead = source(path, MODES[mode])
    stored = load_file(path / "model.safetensors")
    readahead.schedule(weights.order)
    for name, want in stored.items():
        if name not in weights:
            assert name == EMBEDDING
            continue
        matrix = weights.matrix(name)
        for index, block in enumerate(matrix.blocks):
            readahead.demand([block.unit])
            for start, stop, numbers in matrix.pieces(index):
                assert torch.equal(numbers, want[start:stop])
                del numbers
            matrix.done(index)
            weights.release()


def test_a_block_is_given_back_before_the_next_is_taken(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    blocks = Mode(0, PlanLimits(4096, group_bytes=0, resident_below=0))
    path = tiny_checkpoint("llama")
    weights, readahead = source(path, blocks, ring_bytes=2 * 4096)
    matrix = weights.matrix(UP)
    assert len(matrix.blocks) > 2
    readahead.schedule([block.unit for block in matrix.blocks])
    x = torch.randn(3, 64)
    got = multiply(x, matrix, None)
    assert readahead.leased == []
    torch.testing.assert_close(got, x @ load_file(path / "model.safetensors")[UP].T)


def test_a_group_is_held_until_its_last_matrix(tiny_checkpoint: Callable[..., Path]) -> None:
    path = tiny_checkpoint("llama")
    weights, readahead = source(path, MODES["grouped units"])
    names = [name for name in load_file(path / "model.safetensors") if name in weights]
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(weights.matrix(name).blocks[0].unit, []).append(name)
    unit = next(unit for unit in weights.order if len(groups[unit]) > 1)
    assert unit not in weights.residents
    readahead.schedule([unit])
    for count, name in enumerate(groups[unit], start=1):
        matrix = weights.matrix(name)
        multiply(torch.ones(1, matrix.shape[1]), matrix, None)
        assert readahead.leased == ([unit] if count < len(groups[unit]) else [])
    assert readahead.taken == [unit]


def test_held_units_are_read_once_for_several_chunks(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    weights, readahead = source(tiny_checkpoint("llama"), Mode(0, SMALL))
    matrix = weights.matrix(UP)
    unit = matrix.blocks[0].unit
    readahead.schedule([unit])
    with weights.hold():
        first = multiply(torch.ones(1, 64), matrix, None)
        assert torch.equal(multiply(torch.ones(1, 64), matrix, None), first)
        assert readahead.leased == [unit]
    assert readahead.leased == []
    assert readahead.taken == [unit]


@pytest.mark.parametrize("rows", [1, 33])
def test_a_failing_product_keeps_no_lease(
    rows: int, tiny_checkpoint: Callable[..., Path]
) -> None:
    weights, readahead = source(tiny_checkpoint("llama"), Mode(0, SMALL))
    matrix = weights.matrix(UP)
    readahead.schedule([matrix.blocks[0].unit])
    with pytest.raises((RuntimeError, ValueError)) as caught:
        multiply(torch.ones(rows, 7), matrix, None)
    # the traceback is alive, and with it the frames of the product
    assert caught.tb is not None
    weights.release()
    assert readahead.leased == []


def test_nothing_is_scheduled_without_prefetching(tiny_checkpoint: Callable[..., Path]) -> None:
    weights, readahead = source(tiny_checkpoint("llama"), Mode(0, SMALL, prefetching=False))
    weights.expect()
    multiply(torch.ones(1, 64), weights.matrix(UP), None)
    assert readahead.schedules == []
    assert readahead.taken == [weights.matrix(UP).blocks[0].unit]


def test_the_strict_ring_refuses_two_units_where_one_fits(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    weights, readahead = source(tiny_checkpoint("llama"), Mode(0, SMALL), ring_bytes=24576)
    up, down = weights.matrix(UP), weights.matrix(DOWN)
    readahead.schedule([up.blocks[0].unit, down.blocks[0].unit])
    weight = up.take(0)
    with pytest.raises(LeaseHeld):
        down.take(0)
    del weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("arithmetic", ["F32", "BF16"])
@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("rows", [2, 40])
def test_other_dtypes_are_converted(
    dtype: torch.dtype,
    arithmetic: str,
    share: float,
    rows: int,
    tiny_checkpoint: Callable[..., Path],
) -> None:
    path = tiny_checkpoint("llama", dtype=dtype)
    weights, readahead = source(path, Mode(share, SMALL), arithmetic=arithmetic)
    matrix = weights.matrix(UP)
    readahead.schedule([block.unit for block in matrix.blocks])
    stored = load_file(path / "model.safetensors")
    linear = Linear(64, 96, bias=False)
    linear.attach(matrix, weights.compute_dtype)
    linear.bind(weights.compute_dtype)
    x = torch.randn(rows, 64).to(weights.compute_dtype)
    want = (x.double() @ stored[UP].double().T).to(weights.compute_dtype)
    close = 1e-5 if arithmetic == "F32" else 2e-2
    torch.testing.assert_close(linear(x), want, atol=close, rtol=1e-2)
    norm = weights.vector("model.norm.weight")
    assert torch.equal(norm, stored["model.norm.weight"].to(weights.compute_dtype))


def test_residents_that_are_given_up_are_streamed(tiny_checkpoint: Callable[..., Path]) -> None:
    path = tiny_checkpoint("llama")
    files = open_files(path)
    more = Mode(0.6, SMALL)
    weights, readahead = source(path, more)
    plan = make_plan(files, more, arithmetic="F32")
    kept = next(
        matrix
        for matrix in map(
            weights.matrix, load_file(path / "model.safetensors").keys() - {EMBEDDING}
        )
        if matrix.is_resident and matrix.blocks[0].unit in plan.order
    )
    x = torch.randn(2, kept.shape[1])
    before = multiply(x, kept, None)
    left = tuple(unit for unit in plan.residents if unit != kept.blocks[0].unit)
    given_up = weights.adopt(replace(plan, residents=left))
    assert given_up == {kept.blocks[0].unit}
    assert not kept.is_resident
    readahead.schedule([kept.blocks[0].unit])
    assert torch.equal(multiply(x, kept, None), before)
    assert readahead.taken == [kept.blocks[0].unit]
