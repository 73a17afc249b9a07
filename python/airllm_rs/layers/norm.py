"""Root-mean-square normalisation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """Scales the last axis to a root mean square of one, in float32, and multiplies by a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, device="meta"), requires_grad=False)
        self.shape = (size,)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` of shape (…, size)."""
        normal = functional.rms_norm(x.float(), self.shape, None, self.eps)
        return self.weight * normal.to(x.dtype)


class OffsetRMSNorm(RMSNorm):
    """`RMSNorm` that multiplies by one more than its weight, in float32, as Gemma does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` of shape (…, size)."""
        normal = functional.rms_norm(x.float(), self.shape, None, self.eps)
        return (normal * (1.0 + self.weight.float())).to(x.dtype)
