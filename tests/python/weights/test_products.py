"""Products of few rows: where they are written, and in processes that were forked."""

import os
import subprocess
import sys

import pytest
import torch

from airllm_rs import _core
from airllm_rs.weights.packed import buffer, multiply_few, tensor_weight

COLS = 96
SIZES = [70, 3, 129]


def weights(dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], list[_core.Weight]]:
    generator = torch.Generator().manual_seed(5)
    matrices = [torch.randn(size, COLS, generator=generator, dtype=dtype) for size in SIZES]
    return matrices, [tensor_weight(matrix) for matrix in matrices]


@pytest.mark.parametrize("rows", [1, 2, 32])
@pytest.mark.parametrize("with_bias", [False, True])
def test_several_products_share_a_buffer_side_by_side(rows: int, with_bias: bool) -> None:
    matrices, given = weights()
    x = torch.randn(rows, COLS, generator=torch.Generator().manual_seed(6))
    biases = [torch.randn(size) if with_bias else None for size in SIZES]
    stride = sum(SIZES) + 5
    out = torch.full((rows, stride), float("nan"))
    starts = [SIZES[1] + SIZES[2], 0, SIZES[1]]
    multiply_few(x, given, [(buffer(out), start, stride) for start in starts], biases)
    for matrix, bias, start in zip(matrices, biases, starts, strict=True):
        want = torch.nn.functional.linear(
            x.double(), matrix.double(), None if bias is None else bias.double()
        )
        found = out[:, start : start + len(matrix)]
        torch.testing.assert_close(found.double(), want, atol=1e-4, rtol=1e-5)
    assert out[:, sum(SIZES) :].isnan().all()


@pytest.mark.parametrize(
    ("rows", "starts"),
    [(1, (0, 69, 80)), (1, (0, 0, 80)), (3, (100, 70, 0)), (3, (0, 201, 202)), (3, (0, 100, 180))],
)
def test_products_on_each_other_are_refused(rows: int, starts: tuple[int, int, int]) -> None:
    _, given = weights()
    x = torch.zeros(rows, COLS)
    stride = 300
    out = torch.zeros(rows + 2, stride)
    outs = [(buffer(out), start, stride) for start in starts]
    with pytest.raises(ValueError, match="from results to the next"):
        multiply_few(x, given, outs, [None] * 3)
    # the same memory by views of its own
    flat = out.view(-1)
    outs = [(buffer(flat[start:]), 0, stride) for start in starts]
    with pytest.raises(ValueError, match="from results to the next"):
        multiply_few(x, given, outs, [None] * 3)


def test_an_output_behind_its_buffer_is_refused() -> None:
    _, given = weights()
    out = torch.zeros(70)
    for start in (1, 70, 71, 1 << 62, (1 << 64) - 1):
        with pytest.raises(ValueError, match="bytes of the results"):
            multiply_few(torch.zeros(1, COLS), given[:1], [(buffer(out), start, 70)], [None])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_the_first_product_after_a_fork_ends_though_torch_had_computed() -> None:
    code = """
import os
import torch
from airllm_rs import _core
from airllm_rs.weights.packed import buffer, multiply_few, tensor_weight
torch.set_num_threads(4)
torch.randn(1 << 22).exp_()  # torch's team has threads, which a child lacks
child = os.fork()
if child == 0:
    matrix = torch.arange(512.0).repeat_interleave(64).view(512, 64)
    out = torch.empty(1, 512)
    multiply_few(torch.ones(1, 64), [tensor_weight(matrix)], [(buffer(out), 0, 512)], [None])
    os._exit(0 if out[0].tolist() == [64.0 * row for row in range(512)] else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
