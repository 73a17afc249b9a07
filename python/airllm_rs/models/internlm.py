"""InternLM 1: Llama; where the base of RoPE grows, earlier keys are turned again with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.rope import RotaryEmbedding
from airllm_rs.models import llama

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from airllm_rs.config import ModelConfig
    from airllm_rs.layers.rope import Lengths, Rotation
    from airllm_rs.models.decoder import CausalTree


class RenewedRope(RotaryEmbedding):
    """RoPE that turns all keys anew whenever its frequencies may have changed."""

    def rotation(self, positions: Tensor, lengths: Lengths, dtype: torch.dtype) -> Rotation:
        """Return the rotation of ``positions`` (B or 1, T), with that of all keys."""
        turned = super().rotation(positions, lengths, dtype)
        if not self.depends_on_length:
            return turned
        assert lengths.keys is not None, "the executor knows where keys are"
        return turned._replace(keys=super().rotation(lengths.keys, lengths, dtype))


def build(config: ModelConfig) -> CausalTree:
    """Return the module tree, on meta."""
    return llama.build(config, ropes=(RenewedRope(config),))
