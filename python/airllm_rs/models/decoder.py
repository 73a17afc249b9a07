"""The decoder that the architectures share: embedding, pre-norm layers, norm, head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from airllm_rs.layers.attention import Attention, AttentionShape, Context
from airllm_rs.layers.embedding import Embedding
from airllm_rs.layers.linear import Linear
from airllm_rs.layers.mlp import GatedMLP
from airllm_rs.layers.norm import RMSNorm
from airllm_rs.layers.rope import RotaryEmbedding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from airllm_rs.config import ModelConfig


def attention_shapes(
    config: ModelConfig,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    norm_eps: float | None = None,
) -> list[AttentionShape]:
    """Return the attention of each layer; layers differ by their window alone.

    ``norm_eps`` normalises queries and keys per head.
    """
    return [
        AttentionShape(
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            norm_eps=norm_eps,
            window=window,
        )
        for window in config.windows
    ]


class DecoderLayer(nn.Module):
    """Attention and a gated MLP, each behind a norm and added to what came in."""

    def __init__(self, attention: Attention, mlp: GatedMLP, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Map hidden states ``x`` of shape (B, T, hidden) to the same shape."""
        x = self.self_attn(self.input_layernorm(x), context).add_(x)
        return self.mlp(self.post_attention_layernorm(x)).add_(x)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Everything below the head; its parts are run one by one by an executor."""

    def __init__(
        self, config: ModelConfig, shapes: Sequence[AttentionShape], *, mlp_bias: bool
    ) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(
                Attention(shape, index),
                GatedMLP(
                    config.hidden_size,
                    config.intermediate_size,
                    hidden_act=config.hidden_act,
                    bias=mlp_bias,
                ),
                config,
            )
            for index, shape in enumerate(shapes)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        self.windows = tuple(shape.window for shape in shapes)

    def decoder_layers(self) -> Iterator[DecoderLayer]:
        """Yield the layers in order."""
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            yield layer


class CausalTree(nn.Module):
    """A decoder and its head; the names of its parameters are those of the checkpoint."""

    def __init__(self, config: ModelConfig, decoder: Decoder) -> None:
        super().__init__()
        self.model = decoder
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.is_tied = config.tie_word_embeddings
