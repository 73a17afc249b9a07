"""Mixtures of experts: a router picks for each token which MLPs run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from airllm_rs.layers.linear import Linear
from airllm_rs.layers.mlp import each_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    Choose = Callable[[Tensor], tuple[Tensor, Tensor]]
    """From scores of shape (N, experts) in float32 to weights and indices of shape (N, k)."""


class Router(Linear):
    """Scores experts for each token and chooses some."""

    def __init__(
        self, hidden_size: int, experts: int, choose: Choose, *, bias: bool = False
    ) -> None:
        super().__init__(hidden_size, experts, bias=bias)
        self._choose = choose

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return weights in float32 and indices, both (N, k), for ``x`` of shape (N, hidden)."""
        return self._choose(super().forward(x).float())


class MixtureOfExperts(nn.Module):
    """The weighted sum of what the chosen experts make of a token, and of those that always run.

    All experts of a layer are read in order; those that no token chose go by.
    """

    def __init__(
        self, gate: nn.Module, experts: Iterable[nn.Module], shared: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.gate = gate
        self.experts = nn.ModuleList(experts)
        self.shared_experts = shared
        self._residents: frozenset[int] | None = None
        self._streamed: dict[int, list[Linear]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, T, hidden) to the same shape."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(flat)
        streamed = self._passing_by()
        if flat.shape[0] == 1 and not streamed:
            mixed = self._of_one(flat, weights, chosen)
        else:
            mixed = self._in_order(flat, weights, chosen, streamed)
        if self.shared_experts is not None:
            mixed = mixed + self.shared_experts(flat)
        return mixed.view(x.shape)

    def _of_one(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Return the sum for one token, (1, hidden), with all experts in memory."""
        [indices] = chosen.tolist()
        order = sorted(range(len(indices)), key=indices.__getitem__)
        found = each_of([self.experts[indices[place]] for place in order], flat)
        mixed = torch.zeros_like(flat)
        for place, part in zip(order, found, strict=True):
            mixed += (part * weights[:, place, None]).to(mixed.dtype)
        return mixed

    def _in_order(
        self,
        flat: Tensor,
        weights: Tensor,
        chosen: Tensor,
        streamed: Mapping[int, Sequence[Linear]],
    ) -> Tensor:
        """Return the sums, (N, hidden), with experts in their order: so are they read."""
        uses = _uses(chosen, len(self.experts))
        mixed = torch.zeros_like(flat)
        for index in sorted(uses.keys() | streamed.keys()):
            if index not in uses:
                for linear in streamed[index]:
                    linear.skip()
                continue
            token, place = uses[index]
            found = self.experts[index](flat[token]) * weights[token, place, None]
            mixed.index_add_(0, token, found.to(mixed.dtype))
        return mixed

    def _passing_by(self) -> dict[int, list[Linear]]:
        """Return of each expert the layers whose matrices are streamed, where there are any."""
        linears = (part for part in self.experts.modules() if isinstance(part, Linear))
        first = next(linears).source
        if first is not None and first.residents is not self._residents:
            self._residents = first.residents
            parts = {index: _streamed(expert) for index, expert in enumerate(self.experts)}
            self._streamed = {index: found for index, found in parts.items() if found}
        return self._streamed


def _streamed(module: nn.Module) -> list[Linear]:
    """Return the layers in a module whose matrices are not all in memory."""
    linears = (part for part in module.modules() if isinstance(part, Linear))
    return [part for part in linears if part.source is not None and not part.source.is_resident]


def _uses(chosen: Tensor, experts: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Return which tokens chose an expert, and in which place, for each that was chosen.

    ``chosen`` is of shape (N, k).
    """
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=experts).tolist()
    tokens = (order // chosen.shape[1]).split(counts)  # type: ignore[no-untyped-call]
    places = (order % chosen.shape[1]).split(counts)  # type: ignore[no-untyped-call]
    return {i: (tokens[i], places[i]) for i, count in enumerate(counts) if count}


def most_probable(count: int, *, is_normalised: bool) -> Choose:
    """Return what chooses the ``count`` most probable experts by softmax.

    ``is_normalised`` makes the weights of a token sum to one.
    """

    def choose(scores: Tensor) -> tuple[Tensor, Tensor]:
        weights, chosen = scores.softmax(-1).topk(count, dim=-1)
        if is_normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, chosen

    return choose


def most_probable_of_best(count: int) -> Choose:
    """Return what chooses the ``count`` best experts, weighted by softmax over these alone."""

    def choose(scores: Tensor) -> tuple[Tensor, Tensor]:
        best, chosen = scores.topk(count, dim=-1)
        return best.softmax(-1), chosen

    return choose


def within_groups(scores: Tensor, groups: int, kept: int, best: int) -> Tensor:
    """Return which experts are of the ``kept`` best of so many groups, (N, experts).

    A group counts as much as its ``best`` best experts together.
    """
    grouped = scores.view(scores.shape[0], groups, -1)
    totals = grouped.topk(best, dim=-1).values.sum(-1)
    allowed = torch.zeros_like(totals, dtype=torch.bool)
    allowed.scatter_(1, totals.topk(kept, dim=-1).indices, value=True)
    return allowed[:, :, None].expand_as(grouped).reshape(scores.shape)
