"""Rotary position embedding, with the frequencies of transformers' ROPE_INIT_FUNCTIONS."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from airllm_rs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from airllm_rs.config import ModelConfig


class Rotation(NamedTuple):
    """Cosines and sines of shape (B or 1, 1, T, D); the first half of the sines is negated."""

    cos: Tensor
    sin: Tensor


class RotaryEmbedding:
    """Computes the rotation of positions; keeps nothing from one call to the next."""

    def __init__(self, config: ModelConfig) -> None:
        self._head_dim = config.head_dim
        # the functions of transformers read a config of theirs, which also knows the older spelling
        self._config = LlamaConfig(
            hidden_size=config.head_dim * config.num_attention_heads,
            num_attention_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters=dict(config.rope_parameters),
        )
        theta = config.rope_parameters["rope_theta"]
        if not isinstance(theta, int | float):
            raise ConfigError(f"rope_theta is {theta!r}, expected a number")
        self._theta = float(theta)
        self.rope_type = str(config.rope_parameters["rope_type"])
        if self.rope_type != "default" and self.rope_type not in ROPE_INIT_FUNCTIONS:
            known = ", ".join(["default", *ROPE_INIT_FUNCTIONS])
            raise ConfigError(f"rope_type {self.rope_type!r} is not known; known: {known}")
        self._frequencies, self._scaling = self._compute(None)

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies change with the length of the sequences."""
        return self.rope_type in ("dynamic", "longrope")

    def rotation(self, positions: Tensor, length: int, dtype: torch.dtype) -> Rotation:
        """Return the rotation of ``positions`` (B or 1, T) in sequences of up to ``length`` tokens.

        Angles are computed in float32. The frequencies of dynamic and longrope depend on
        ``length``: all chunks of a prompt must be given the same.
        """
        frequencies, scaling = self._for_length(length)
        angles = positions[:, None, :, None].float() * frequencies
        cos = angles.cos() * scaling
        sin = angles.sin() * scaling
        return Rotation(
            torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)
        )

    def _for_length(self, length: int) -> tuple[Tensor, float]:
        if self.rope_type == "dynamic" and length > self._config.max_position_embeddings:
            return self._compute(length)
        if self.rope_type == "longrope":
            return self._compute(length)
        return self._frequencies, self._scaling

    def _compute(self, length: int | None) -> tuple[Tensor, float]:
        if self.rope_type == "default":
            exponents = torch.arange(0, self._head_dim, 2, dtype=torch.float32) / self._head_dim
            return 1.0 / (self._theta**exponents), 1.0
        # a tensor, as transformers passes it: its dtype decides how the base is rounded
        seq_len = None if length is None else torch.tensor(length)
        frequencies, scaling = ROPE_INIT_FUNCTIONS[self.rope_type](
            self._config, torch.device("cpu"), seq_len=seq_len
        )
        if 2 * frequencies.numel() != self._head_dim:
            raise ConfigError(
                f"RoPE turns {2 * frequencies.numel()} of {self._head_dim} dimensions of a head; "
                "partial rotation is not supported"
            )
        return frequencies, scaling


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Apply ``rotation`` to ``x`` of shape (B, H, T, D)."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * rotation.cos, x.roll(half, -1), rotation.sin)
