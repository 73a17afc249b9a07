"""The tree that most architectures share: pre-norm layers of attention and an MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.layers.attention import Attention
from airllm_rs.models.decoder import (
    CausalTree,
    Decoder,
    DecoderLayer,
    attention_shape,
    gated_mlp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from airllm_rs.config import ModelConfig
    from airllm_rs.layers.linear import Linear
    from airllm_rs.layers.rope import RotaryEmbedding


def pre_norm_tree(
    config: ModelConfig,
    *,
    mlp: Callable[[int], nn.Module] | None = None,
    ropes: Sequence[RotaryEmbedding] | None = None,
    head: Linear | None = None,
    **attention: object,
) -> CausalTree:
    """Return a module tree, on meta.

    Args:
        config: The model's configuration.
        mlp: Makes the MLP of a layer; a gated one without biases if None.
        ropes: As `Decoder` takes them.
        head: As `CausalTree` takes it.
        **attention: What `AttentionShape` says of this family, beside the sizes.
    """

    def layer(index: int) -> DecoderLayer:
        shape = attention_shape(config, index, **attention)
        inner = gated_mlp(config) if mlp is None else mlp(index)
        return DecoderLayer(Attention(shape, index), inner, config)

    return CausalTree(config, Decoder(config, layer, ropes=ropes), head=head)
