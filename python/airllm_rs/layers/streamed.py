"""A parameter that is not there: whatever uses it gets the weight that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional

from airllm_rs.errors import UnsupportedModelError
from airllm_rs.layers.linear import Linear, placeholder

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor

    from airllm_rs.weights.source import Matrix


class Weight(Protocol):
    """Where the numbers of a `Streamed` come from."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        """Return the numbers, which stay good while the layer runs."""

    def once(self) -> AbstractContextManager[Tensor]:
        """Lend the numbers for one call that leaves no view of them behind."""

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor | None:
        """Multiply ``x`` (…, in) with the matrix (out, in) as it lies; None if it cannot be."""

    def rows(self, ids: Tensor) -> Tensor | None:
        """Return rows of the table; None if they have to be taken from the whole."""


_ABOUT = (
    "shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "layout", "is_meta", "grad",
    "grad_fn", "is_cuda", "is_cpu", "itemsize", "nbytes", "is_quantized", "is_sparse", "is_nested",
)  # fmt: skip
_PASSIVE: frozenset[object] = frozenset(
    [getattr(torch.Tensor, name).__get__ for name in _ABOUT]
    + [
        torch.Tensor.size, torch.Tensor.dim, torch.Tensor.numel, torch.Tensor.nelement,
        torch.Tensor.ndimension, torch.Tensor.is_floating_point, torch.Tensor.is_complex,
        torch.Tensor.element_size, torch.Tensor.get_device, torch.Tensor.is_contiguous,
        torch.Tensor.stride, torch.Tensor.__len__, torch.Tensor.__hash__, torch.Tensor.__repr__,
        torch.is_floating_point, torch.is_complex, torch.numel,
    ]
)  # fmt: skip
# Calls whose results are new memory.
_CONSUMING: frozenset[object] = frozenset(
    [
        torch.addmm, torch.mm, torch.bmm, torch.matmul, torch.baddbmm, torch.einsum, torch.conv1d,
        torch.Tensor.addmm, torch.Tensor.mm, torch.Tensor.bmm, torch.Tensor.matmul,
        torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, functional.linear, functional.conv1d,
        functional.embedding, functional.layer_norm, functional.rms_norm,
    ]
)  # fmt: skip


class Streamed(torch.Tensor):
    """Stands for a weight under its shape, dtype and device; takes the memory of one number.

    Every call of torch that is given one runs on the weight itself, asked for at that moment: a
    product as a matrix that is read as it runs, a lookup row by row. What is taken otherwise is
    kept for as long as its source keeps it.
    """

    weight: Weight

    @staticmethod
    def of(weight: Weight) -> Streamed:
        """Return what stands for ``weight`` as a parameter of a module."""
        found = placeholder(weight.shape, weight.dtype).as_subclass(Streamed)
        found.weight = weight
        found._is_param = True  # what `isinstance(…, nn.Parameter)` looks at
        return found

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever ``func`` returns
        kwargs = kwargs or {}
        if func in _PASSIVE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        written = func.__name__.endswith("_") and not func.__name__.endswith("__")
        if written and args and isinstance(args[0], Streamed):
            raise UnsupportedModelError(
                "this model changes its weights while it runs, which streamed weights do not keep"
            )
        if func is functional.linear:
            made = _linear(*args, **kwargs)
            if made is not None:
                return made
        elif func is functional.embedding:
            made = _rows(*args, **kwargs)
            if made is not None:
                return made
        if func in _CONSUMING:
            single = [value for value in (*args, *kwargs.values()) if isinstance(value, Streamed)]
            if len(single) == 1:
                with single[0].weight.once() as numbers:
                    swapped = {id(single[0]): numbers}
                    return func(*_filled(args, swapped), **_filled(kwargs, swapped))
        return func(*_filled(args, {}), **_filled(kwargs, {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not isinstance(weight, Streamed) or isinstance(x, Streamed) or isinstance(bias, Streamed):
        return None
    return weight.weight.product(x, bias)


def _rows(input: Tensor, weight: Tensor, *_: object, **__: object) -> Tensor | None:
    return weight.weight.rows(input) if isinstance(weight, Streamed) else None


def _filled(value: Any, swapped: dict[int, Tensor]) -> Any:  # noqa: ANN401 - as it came
    if isinstance(value, Streamed):
        return swapped[id(value)] if id(value) in swapped else value.weight.tensor()
    if isinstance(value, list | tuple):
        filled = [_filled(part, swapped) for part in value]
        return type(value)(filled) if type(value) in (list, tuple) else value
    if isinstance(value, dict):
        return {key: _filled(part, swapped) for key, part in value.items()}
    return value


class LinearWithWeight(Linear):
    """`Linear` whose ``weight`` is the matrix for whoever reads it past ``forward``."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, weight: Weight) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._stands_for = weight

    def attach(self, matrix: Matrix, dtype: torch.dtype) -> None:
        """Take the matrix from ``matrix`` whenever the layer runs in ``dtype``."""
        super().attach(matrix, dtype)
        self._parameters["weight"] = Streamed.of(self._stands_for)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` of shape (…, in) with the matrix of shape (out, in); add the bias."""
        source = self.source
        if source is not None and self._bound is None and x.dtype != self.weight.dtype:
            return functional.linear(x, self.weight, self.bias)
        return super().forward(x)
