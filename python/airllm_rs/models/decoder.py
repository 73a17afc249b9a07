"""The decoder that the architectures share: embedding, layers, norm, head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from airllm_rs.layers.attention import AttentionShape, Context
from airllm_rs.layers.embedding import Embedding
from airllm_rs.layers.linear import Linear
from airllm_rs.layers.mlp import GatedMLP
from airllm_rs.layers.norm import RMSNorm
from airllm_rs.layers.rope import RotaryEmbedding
from airllm_rs.layers.scores import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import Tensor

    from airllm_rs.config import ModelConfig
    from airllm_rs.layers.rope import Lengths, Rotation


def attention_shape(config: ModelConfig, index: int, **others: object) -> AttentionShape:
    """Return the attention of a layer, with its window; ``others`` are what the family adds."""
    return AttentionShape(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        window=config.windows[index],
        **others,  # type: ignore[arg-type]
    )


def gated_mlp(config: ModelConfig, *, bias: bool = False, is_fused: bool = False) -> GatedMLP:
    """Return the MLP of a layer."""
    return GatedMLP(
        config.hidden_size,
        config.intermediate_size,
        hidden_act=config.hidden_act,
        bias=bias,
        is_fused=is_fused,
    )


class DecoderLayer(nn.Module):
    """Attention and an MLP, each behind a norm and added to what came in."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map hidden states ``x`` of shape (B, T, hidden) to the same shape."""
        x = self.self_attn(self.input_layernorm(x), context).add_(x)
        return self.mlp(self.post_attention_layernorm(x)).add_(x)  # type: ignore[no-any-return]


class SandwichLayer(nn.Module):
    """Attention and an MLP, each between two norms, and added to what came in."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = norm()
        self.post_attention_layernorm = norm()
        self.pre_feedforward_layernorm = norm()
        self.post_feedforward_layernorm = norm()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map hidden states ``x`` of shape (B, T, hidden) to the same shape."""
        mixed = self.self_attn(self.input_layernorm(x), context)
        x = self.post_attention_layernorm(mixed).add_(x)
        mixed = self.mlp(self.pre_feedforward_layernorm(x))
        return self.post_feedforward_layernorm(mixed).add_(x)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Everything below the head; its parts are run one by one by an executor."""

    def __init__(
        self,
        config: ModelConfig,
        layer: Callable[[int], nn.Module],
        *,
        ropes: Sequence[RotaryEmbedding] | None = None,
        rotation_kinds: Sequence[int] | None = None,
        norm: nn.Module | None = None,
        embedding_scale: float | None = None,
        inputs_scale: float | None = None,
    ) -> None:
        """Build the modules, on meta.

        Args:
            config: The model's configuration.
            layer: Makes the layer of an index.
            ropes: The rotations that layers use; that of ``config`` if None, empty for none.
            rotation_kinds: Of each layer, which of ``ropes`` is its; the first if None.
            norm: The one before the head; `RMSNorm` if None.
            embedding_scale: What embeddings are multiplied by, rounded to their dtype.
            inputs_scale: What those are multiplied by that a caller brings instead of ids.
        """
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, embedding_scale)
        self.inputs_scale = inputs_scale
        self.layers = nn.ModuleList(layer(index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps) if norm is None else norm
        self.ropes = (RotaryEmbedding(config),) if ropes is None else tuple(ropes)
        kinds = (0,) * config.num_hidden_layers
        self.rotation_kinds = kinds if rotation_kinds is None else tuple(rotation_kinds)
        self.windows = config.windows

    def decoder_layers(self) -> Iterator[nn.Module]:
        """Yield the layers in order."""
        yield from self.layers

    @property
    def depends_on_length(self) -> bool:
        """Whether rotations change with the length of the sequences."""
        return any(rope.depends_on_length for rope in self.ropes)

    @property
    def changes_past(self) -> int | None:
        """Tokens past which cached keys no longer go with new ones; None for never."""
        found = [rope.changes_past for rope in self.ropes if rope.changes_past is not None]
        return min(found, default=None)

    def rotations(
        self, positions: Tensor, lengths: Lengths, dtype: torch.dtype
    ) -> tuple[Rotation, ...]:
        """Return the rotations of ``positions`` (B or 1, T), one for each of ``ropes``."""
        return tuple(rope.rotation(positions, lengths, dtype) for rope in self.ropes)


class CausalTree(nn.Module):
    """A decoder and its head."""

    def __init__(
        self,
        config: ModelConfig,
        decoder: Decoder,
        *,
        head: Linear | None = None,
        softcap: float | None = None,
    ) -> None:
        """Put a head on ``decoder``.

        Args:
            config: The model's configuration.
            decoder: What is below the head.
            head: The head; a plain `Linear` if None.
            softcap: Logits become ``softcap * tanh(logit / softcap)``.
        """
        super().__init__()
        self.model = decoder
        plain = Linear(config.hidden_size, config.vocab_size, bias=False) if head is None else head
        self.lm_head = plain
        self._softcap = softcap

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits in float32 for normed hidden states of shape (B, T, hidden)."""
        logits: Tensor = self.lm_head(hidden).float()
        return logits if self._softcap is None else capped(logits, self._softcap)
