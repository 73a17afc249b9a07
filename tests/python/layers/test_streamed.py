"""What stands for a weight is the weight to whatever uses it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional

from airllm_rs.errors import UnsupportedModelError
from airllm_rs.layers.streamed import Streamed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


class Noted:
    """A weight that counts how it is asked for."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers
        self.shape = tuple(numbers.shape)
        self.dtype = numbers.dtype
        self.asked: list[str] = []

    def tensor(self) -> Tensor:
        self.asked.append("tensor")
        return self.numbers

    @contextmanager
    def once(self) -> Iterator[Tensor]:
        self.asked.append("once")
        yield self.numbers

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        self.asked.append("product")
        return functional.linear(x, self.numbers, bias)

    def rows(self, ids: Tensor) -> Tensor | None:
        self.asked.append("rows")
        return self.numbers[ids]


@pytest.fixture
def noted() -> Noted:
    return Noted(torch.arange(12.0).view(3, 4))


def test_looking_at_it_asks_for_nothing(noted: Noted) -> None:
    held = Streamed.of(noted)
    assert isinstance(held, nn.Parameter)
    assert (held.shape, held.dtype, held.device.type) == ((3, 4), torch.float32, "cpu")
    assert (held.size(1), held.dim(), held.numel(), len(held)) == (4, 2, 12, 3)
    assert held.is_floating_point()
    assert not held.requires_grad
    assert noted.asked == []


def test_each_use_asks_for_what_it_needs(noted: Noted) -> None:
    held, x = Streamed.of(noted), torch.arange(8.0).view(2, 4)
    uses = [
        (lambda w: functional.linear(x, w), "product"),
        (lambda w: functional.embedding(torch.tensor([2, 0]), w), "rows"),
        (lambda w: torch.addmm(torch.ones(4), torch.ones(2, 3), w), "once"),
        (lambda w: x @ w.T, "tensor"),
        (lambda w: w[1], "tensor"),
        (lambda w: w.float() + 1, "tensor"),
        (lambda w: torch.cat([w, w]), "tensor"),
        (lambda w: w.data, "tensor"),
    ]
    for use, how in uses:
        noted.asked.clear()
        got = use(held)  # type: ignore[no-untyped-call]
        assert set(noted.asked) == {how}
        assert torch.equal(got, use(noted.numbers))  # type: ignore[no-untyped-call]
        assert type(got) is torch.Tensor


def test_writing_to_it_is_refused(noted: Noted) -> None:
    for write in (lambda w: w.div_(2), lambda w: w.copy_(torch.ones(3, 4))):
        with pytest.raises(UnsupportedModelError, match="changes its weights"):
            write(Streamed.of(noted))  # type: ignore[no-untyped-call]
