"""The gated feed-forward network."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from airllm_rs.errors import ConfigError
from airllm_rs.layers.linear import Linear, multiply_together
from airllm_rs.weights.packed import FEW_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}


class GatedMLP(nn.Module):
    """``down(act(gate(x)) * up(x))``; gate and up may be one matrix, gate first."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        hidden_act: str,
        bias: bool = False,
        is_fused: bool = False,
    ) -> None:
        super().__init__()
        if hidden_act not in ACTIVATIONS:
            raise ConfigError(
                f"hidden_act {hidden_act!r} is not known; known: {', '.join(ACTIVATIONS)}"
            )
        self.gate_up_proj: Linear | None = None
        if is_fused:
            self.gate_up_proj = Linear(hidden_size, 2 * intermediate_size, bias=bias)
        else:
            self.gate_proj = Linear(hidden_size, intermediate_size, bias=bias)
            self.up_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)
        self.act_fn = ACTIVATIONS[hidden_act]
        self._is_silu = self.act_fn is functional.silu

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (…, hidden) to the same shape."""
        if self.gate_up_proj is not None:
            # contiguous halves: what follows works on whole rows, in place
            gate, up = (half.contiguous() for half in self.gate_up_proj(x).chunk(2, -1))
        else:
            gate, up = multiply_together(x, (self.gate_proj, self.up_proj))
        return self.after(gate, up)

    def after(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return the result for gate and up, (…, intermediate) each, which are overwritten."""
        return self.down_proj(self._gated(gate, up))  # type: ignore[no-any-return]

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        if (gate.requires_grad or up.requires_grad) and torch.is_grad_enabled():
            return self.act_fn(gate) * up
        size = gate.shape[-1]
        rows = gate.view(-1, size)
        # few rows one by one: torch rounds what is left of all rows behind the last whole vector
        # of a thread differently, and a token would depend on those beside it
        for part in rows if 1 < rows.shape[0] <= FEW_ROWS else (rows,):
            if self._is_silu:
                # in place: at a chunk of a prompt these are the largest activations
                functional.silu(part, inplace=True)
            else:
                part.copy_(self.act_fn(part))
        return gate.mul_(up)


def each_of(mlps: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Return what each of ``mlps``, all in memory, makes of ``x`` (…, hidden).

    The same bits as one by one. Threads meet once for all first products.
    """
    gated = [mlp for mlp in mlps if type(mlp) is GatedMLP and mlp.gate_up_proj is None]
    if len(gated) < len(mlps):
        return [mlp(x) for mlp in mlps]
    found = multiply_together(x, [part for mlp in gated for part in (mlp.gate_proj, mlp.up_proj)])
    pairs = zip(found[::2], found[1::2], strict=True)
    return [mlp.after(gate, up) for mlp, (gate, up) in zip(gated, pairs, strict=True)]
