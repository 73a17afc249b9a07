"""Rotary position embedding, with the frequencies of transformers' ROPE_INIT_FUNCTIONS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from airllm_rs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from airllm_rs.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the sequences are whose positions are turned."""

    longest: int
    """Tokens of the longest, those at hand included."""
    first: tuple[int, ...] | None = None
    """Of each sequence, how many tokens the cache began with; None if that is not known."""
    keys: Tensor | None = None
    """Positions of all keys, those of the tokens at hand included, (B or 1, S)."""


class Rotation(NamedTuple):
    """Cosines and sines of shape (B or 1, 1, T, D); the sines that are subtracted are negative."""

    cos: Tensor
    sin: Tensor
    is_paired: bool = False
    """Whether item 2i turns with 2i + 1, and not i with i + D / 2."""
    turns: Tensor | None = None
    """The same as complex numbers, (B or 1, 1, T, D / 2), for pairs in float32."""
    gain: Tensor | None = None
    """What queries are multiplied by, of shape (B or 1, 1, T, 1)."""
    keys: Rotation | None = None
    """That of all keys, where the cache holds them as they were before; None where only new keys
    are turned."""


class RotaryEmbedding:
    """Computes the rotation of positions; keeps nothing from one call to the next."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        parameters: Mapping[str, object] | None = None,
        head_dim: int | None = None,
        is_paired: bool = False,
    ) -> None:
        """Prepare the frequencies.

        Args:
            config: The model's configuration.
            parameters: Those of RoPE, if not ``config.rope_parameters``. With a
                ``partial_rotary_factor`` below one, only the first items of a head are turned.
            head_dim: Items of a head that are given to `rotate`, if not all.
            is_paired: Whether item 2i turns with 2i + 1, and not i with i + D / 2.
        """
        parameters = config.rope_parameters if parameters is None else parameters
        self._head_dim = config.head_dim if head_dim is None else head_dim
        self.is_paired = is_paired
        # the functions of transformers read a config of theirs, which also knows the older spelling
        self._config = LlamaConfig(
            hidden_size=self._head_dim * config.num_attention_heads,
            num_attention_heads=config.num_attention_heads,
            head_dim=self._head_dim,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters=dict(parameters),
        )
        theta = parameters["rope_theta"]
        if not isinstance(theta, int | float):
            raise ConfigError(f"rope_theta is {theta!r}, expected a number")
        self._theta = float(theta)
        original = parameters.get("original_max_position_embeddings")
        self._switch = original if isinstance(original, int) else config.max_position_embeddings
        self.rope_type = str(parameters["rope_type"])
        if self.rope_type != "default" and self.rope_type not in ROPE_INIT_FUNCTIONS:
            known = ", ".join(["default", *ROPE_INIT_FUNCTIONS])
            raise ConfigError(f"rope_type {self.rope_type!r} is not known; known: {known}")
        factor = parameters.get("partial_rotary_factor", 1.0)
        if not isinstance(factor, int | float) or not 0 < factor <= 1:
            raise ConfigError(f"partial_rotary_factor is {factor!r}, expected more than 0, up to 1")
        self._turned = int(self._head_dim * factor)
        self._frequencies, self._scaling = self._compute(None)

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies change with the length of the sequences."""
        return self.rope_type in ("dynamic", "longrope")

    @property
    def changes_past(self) -> int | None:
        """Tokens past which all frequencies are others, those of earlier keys too; None for none.

        Longrope has two sets, and a model was trained on each alone, never on keys of both.
        """
        return self._switch if self.rope_type == "longrope" else None

    def rotation(self, positions: Tensor, lengths: Lengths, dtype: torch.dtype) -> Rotation:
        """Return the rotation of ``positions`` (B or 1, T).

        Angles are computed in float32. The frequencies of dynamic and longrope depend on
        ``lengths``: all chunks of a prompt must be given the same.
        """
        frequencies, scaling = self._for_length(lengths.longest)
        angles = positions[:, None, :, None].float() * frequencies
        cos = angles.cos() * scaling
        sin = angles.sin() * scaling
        return self.arranged(cos, sin, dtype)

    def arranged(self, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation by angles of one cosine and sine each, (B or 1, 1, T, D / 2)."""
        turns = torch.complex(cos, sin) if self.is_paired and dtype is torch.float32 else None
        if self.is_paired:
            cos = torch.stack((cos, cos), dim=-1).flatten(-2)
            sin = torch.stack((-sin, sin), dim=-1).flatten(-2)
        else:
            cos = torch.cat((cos, cos), dim=-1)
            sin = torch.cat((-sin, sin), dim=-1)
        return Rotation(cos.to(dtype), sin.to(dtype), self.is_paired, turns)

    def _for_length(self, length: int) -> tuple[Tensor, float]:
        if self.rope_type == "dynamic" and length > self._config.max_position_embeddings:
            return self._compute(length)
        if self.rope_type == "longrope":
            return self._compute(length)
        return self._frequencies, self._scaling

    def _compute(self, length: int | None) -> tuple[Tensor, float]:
        if self.rope_type == "default":
            exponents = torch.arange(0, self._turned, 2, dtype=torch.float32) / self._turned
            return 1.0 / (self._theta**exponents), 1.0
        # a tensor, as transformers passes it: its dtype decides how the base is rounded
        seq_len = None if length is None else torch.tensor(length)
        frequencies, scaling = ROPE_INIT_FUNCTIONS[self.rope_type](
            self._config, torch.device("cpu"), seq_len=seq_len
        )
        if 2 * frequencies.numel() != self._turned:
            raise ConfigError(
                f"RoPE of type {self.rope_type} turns {2 * frequencies.numel()} items of a head, "
                f"and config.json says {self._turned} of {self._head_dim}"
            )
        return frequencies, scaling


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Apply ``rotation`` to ``x`` of shape (B, H, T, D), or to its first items if it has fewer."""
    turned = rotation.cos.shape[-1]
    if turned < x.shape[-1]:
        first = _turn(x[..., :turned], rotation)
        return torch.cat((first, x[..., turned:]), dim=-1)
    return _turn(x, rotation)


def first_keys(rotation: Rotation, keys: int) -> Rotation:
    """Return the rotation of the first ``keys`` of those that ``rotation`` is of."""
    return rotation._replace(cos=rotation.cos[:, :, :keys], sin=rotation.sin[:, :, :keys])


def _turn(x: Tensor, rotation: Rotation) -> Tensor:
    if rotation.turns is not None:
        # one product in place of a copy in another order and two products
        if x.storage_offset() % 2 or any(stride % 2 for stride in x.stride()[:-1]):
            x = x.contiguous()  # complex numbers begin at even items
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # type: ignore[no-untyped-call]
        return torch.view_as_real(pairs * rotation.turns).flatten(-2)
    if rotation.is_paired:
        other = x.reshape(*x.shape[:-1], -1, 2).flip(-1).flatten(-2)
    else:
        other = x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * rotation.cos, other, rotation.sin)
