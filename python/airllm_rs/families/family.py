"""What a family of models is: tensors by name and shape, in order of use."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airllm_rs.config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
HEAD = "lm_head.weight"

Kind = Literal["embedding", "decoder", "other", "norm", "head"]
Placement = Literal["planned", "table", "resident", "gathered"]
"""Who decides what stays in memory: the plan; the plan, which may look its rows up on disk instead;
nobody, it stays; nobody, its rows are looked up."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that the checkpoint has, under the name that it has there."""

    name: str
    shape: tuple[int, ...]
    required: bool = True
    placement: Placement = "planned"


@dataclass(frozen=True, slots=True)
class Layer:
    """What is run as one step of a sweep; its tensors are in order of use."""

    name: str
    kind: Kind
    tensors: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Family:
    """All that is known about the models of one ``model_type`` without running them."""

    model_type: str
    decoder: Callable[[ModelConfig, str], tuple[TensorSpec, ...]]
    """The tensors of a decoder layer, given the prefix of their names."""
    defaults: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Keys of config.json that may be absent, as transformers fills them in."""
    ignored: frozenset[str] = frozenset()
    """Keys of config.json that mean nothing to these models, whatever the file says."""
    ignorable_suffixes: tuple[str, ...] = (".rotary_emb.inv_freq",)
    """Tensors that old checkpoints carry and nothing needs."""

    def layers(self, config: ModelConfig) -> tuple[Layer, ...]:
        """Return the layers in order of use.

        They are ``embed_tokens``, ``layers.0`` …, ``norm``, ``lm_head``. The head of a tied model
        is the embedding table, under the name of the embedding table.
        """
        table = TensorSpec(EMBEDDING, (config.vocab_size, config.hidden_size), placement="table")
        head = TensorSpec(HEAD, (config.vocab_size, config.hidden_size))
        return (
            Layer("embed_tokens", "embedding", (table,)),
            *(
                Layer(f"layers.{n}", "decoder", self.decoder(config, f"model.layers.{n}."))
                for n in range(config.num_hidden_layers)
            ),
            Layer("norm", "norm", (TensorSpec(NORM, (config.hidden_size,)),)),
            Layer("lm_head", "head", (table if config.tie_word_embeddings else head,)),
        )

    @property
    def embedding(self) -> str:
        """The name of the embedding table."""
        return EMBEDDING

    def is_ignorable(self, name: str, config: ModelConfig) -> bool:
        """Tell whether a tensor that is no part of the model may be in its checkpoint."""
        return name.endswith(self.ignorable_suffixes) or (
            config.tie_word_embeddings and name == HEAD
        )

    def kv_bytes_per_token(self, config: ModelConfig, item_size: int) -> int:
        """Return the bytes of keys and values that one token adds in all layers together."""
        return config.num_hidden_layers * self.kv_bytes_per_layer(config, item_size)

    def kv_bytes_per_layer(self, config: ModelConfig, item_size: int) -> int:
        """Return the bytes of keys and values that one token adds in one layer."""
        return 2 * config.num_key_value_heads * config.head_dim * item_size

    def beside_bytes(
        self, config: ModelConfig, *, rows: int, context: int, sequences: int, item: int
    ) -> int:
        """Return what a run takes beside its weights, keys and values, and what all models take.

        Args:
            config: The model's configuration.
            rows: Tokens that are in one module at a time.
            context: Tokens of a sequence that the KV cache holds.
            sequences: How many sequences it holds.
            item: Bytes of one number of the arithmetic.
        """
        return 0


def decoder_tensors(
    config: ModelConfig,
    prefix: str,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
) -> tuple[TensorSpec, ...]:
    """Return the tensors of a pre-norm layer with grouped-query attention and a gated MLP."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim

    def norm(name: str, size: int) -> list[TensorSpec]:
        return [TensorSpec(f"{prefix}{name}.weight", (size,))]

    def linear(name: str, rows: int, columns: int, *, bias: bool) -> list[TensorSpec]:
        weight = TensorSpec(f"{prefix}{name}.weight", (rows, columns))
        return [weight, TensorSpec(f"{prefix}{name}.bias", (rows,))] if bias else [weight]

    tensors = [
        *norm("input_layernorm", hidden),
        *linear("self_attn.q_proj", queries, hidden, bias=qkv_bias),
        *linear("self_attn.k_proj", keys, hidden, bias=qkv_bias),
        *linear("self_attn.v_proj", keys, hidden, bias=qkv_bias),
    ]
    if qk_norm:
        tensors += norm("self_attn.q_norm", config.head_dim)
        tensors += norm("self_attn.k_norm", config.head_dim)
    tensors += [
        *linear("self_attn.o_proj", hidden, queries, bias=output_bias),
        *norm("post_attention_layernorm", hidden),
        *linear("mlp.gate_proj", inner, hidden, bias=mlp_bias),
        *linear("mlp.up_proj", inner, hidden, bias=mlp_bias),
        *linear("mlp.down_proj", hidden, inner, bias=mlp_bias),
    ]
    return tuple(tensors)
