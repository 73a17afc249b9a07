"""Gives the modules of one layer their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from airllm_rs.layers.linear import Linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.weights.source import WeightSource


class Binding:
    """One layer and its tensors: streamed matrices are attached, resident tensors assigned."""

    def __init__(self, module: nn.Module, names: Mapping[str, str], weights: WeightSource) -> None:
        """Attach every `Linear` of ``module`` to its matrix.

        Args:
            module: A layer.
            names: Of tensors in the checkpoint, by the parameters that they are.
            weights: Where tensors come from.
        """
        self._weights = weights
        self._linears: list[tuple[Linear, str]] = []
        self._vectors: list[tuple[nn.Module, str, str]] = []
        for path, part in module.named_modules():
            for attribute, _ in part.named_parameters(recurse=False):
                local = f"{path}.{attribute}" if path else attribute
                name = names[local]
                if isinstance(part, Linear) and attribute == "weight":
                    part.attach(weights.matrix(name), weights.compute_dtype)
                    self._linears.append((part, name))
                elif attribute != "weight" or not isinstance(part, nn.Embedding):
                    self._vectors.append((part, attribute, name))
        self.is_settled = False

    def settle(self) -> None:
        """Wait for the resident tensors of the layer and assign them, once and for all."""
        # tensors of inference mode could take no part in a later backward pass
        with torch.inference_mode(mode=False):
            for part, attribute, name in self._vectors:
                is_exact = attribute in getattr(part, "exact", ())
                tensor = self._weights.vector(name, torch.float32 if is_exact else None)
                setattr(part, attribute, nn.Parameter(tensor, requires_grad=False))
            for linear, _ in self._linears:
                linear.bind(self._weights.compute_dtype)
        self.is_settled = True

    def unbind(self, units: frozenset[int]) -> None:
        """Let go of matrices that are parameters and lie in ``units``."""
        for linear, name in self._linears:
            if self._weights.units_of([name]) & units:
                linear.attach(self._weights.matrix(name), self._weights.compute_dtype)
