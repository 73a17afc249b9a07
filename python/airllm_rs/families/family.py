"""What a family of models is: tensors by name and shape, in order of use."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from airllm_rs.config import ConfigRules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airllm_rs.config import ModelConfig

_MODEL = "model."
EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
HEAD = "lm_head.weight"

_PLAIN_RULES = ConfigRules()

Kind = Literal["embedding", "decoder", "other", "norm", "head"]
Placement = Literal["planned", "resident", "gathered"]
"""Who decides what stays in memory: the plan; nobody, it stays; nobody, its rows are looked up."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that the checkpoint has, under the name that it has there.

    One expert of several in a tensor has the name of the tensor and its index, as in
    ``mlp.experts.down_proj[3]``.
    """

    name: str
    shape: tuple[int, ...]
    parameter: str = ""
    """The parameter of the layer's module that it is."""
    placement: Placement = "planned"


@dataclass(frozen=True, slots=True)
class Layer:
    """What is run as one step of a sweep; its tensors are in order of use."""

    name: str
    kind: Kind
    tensors: tuple[TensorSpec, ...]

    @property
    def parameters(self) -> dict[str, str]:
        """The names of tensors by those of the parameters that they are."""
        return {spec.parameter: spec.name for spec in self.tensors}


@dataclass(frozen=True)
class Family:
    """All that is known about the models of one ``model_type`` without running them."""

    model_type: str
    decoder: Callable[[ModelConfig, int], tuple[TensorSpec, ...]]
    """The tensors of a decoder layer, given its index; names are without ``layer_prefix``."""
    rules: ConfigRules = _PLAIN_RULES
    """How its config.json is read."""
    embedding: str = EMBEDDING
    norm: str = NORM
    head: str = HEAD
    layer_prefix: str = "model.layers.{}."
    """What precedes the names of the tensors of a layer of this index."""
    prefixes: tuple[str, ...] = ()
    """What names may begin with instead of ``model.``, where the model is a part of another."""
    ignorable: tuple[str, ...] = (r".*\.rotary_emb\.inv_freq",)
    """Patterns of tensors that checkpoints carry and nothing needs."""
    kv_width: Callable[[ModelConfig], int] = lambda config: (
        2 * config.num_key_value_heads * config.head_dim
    )
    """How many numbers a token adds to the KV cache of one layer."""
    inner_width: Callable[[ModelConfig], int] = lambda config: config.intermediate_size
    """The most columns that an MLP has inside."""
    scores_heads: Callable[[ModelConfig], int] = lambda _: 0
    """Of how many heads together attention keeps scores of all keys; 0 if it never does."""
    expanded_width: Callable[[ModelConfig], int] = lambda _: 0
    """How many numbers keys and values of a token become while attention runs, beyond the cache."""
    positions: Callable[[ModelConfig], str | None] = lambda _: "rope"
    """How positions count: ``rope`` or ``alibi``; None where that is not known."""

    def layers(self, config: ModelConfig) -> tuple[Layer, ...]:
        """Return the layers in order of use.

        They are ``embed_tokens``, ``layers.0`` …, ``norm``, ``lm_head``. The head of a tied model
        is the embedding table, under the name of the embedding table.
        """
        size = (config.vocab_size, config.hidden_size)
        table = TensorSpec(_placed(self.embedding, config.prefix), size, "weight")
        head = TensorSpec(config.head or _placed(self.head, config.prefix), size, "weight")
        norm = TensorSpec(_placed(self.norm, config.prefix), (config.hidden_size,), "weight")
        return (
            Layer("embed_tokens", "embedding", (table,)),
            *(
                Layer(f"layers.{index}", "decoder", self._decoder(config, index))
                for index in range(config.num_hidden_layers)
            ),
            Layer("norm", "norm", (norm,)),
            Layer("lm_head", "head", (table if config.tie_word_embeddings else head,)),
        )

    def _decoder(self, config: ModelConfig, index: int) -> tuple[TensorSpec, ...]:
        prefix = _placed(self.layer_prefix.format(index), config.prefix)
        return tuple(
            TensorSpec(prefix + spec.name, spec.shape, spec.parameter or spec.name)
            for spec in self.decoder(config, index)
        )

    def placed(self, config: ModelConfig, names: Iterable[str]) -> ModelConfig:
        """Return ``config`` with what a checkpoint calls its tensors."""
        present = set(names)
        for prefix in self.prefixes:
            if _placed(self.embedding, prefix) in present:
                config = replace(config, prefix=prefix)
                break
        # a store's head that was made of the embedding table has this name in every family
        if HEAD in present and _placed(self.head, config.prefix) not in present:
            return replace(config, head=HEAD)
        return config

    def is_ignorable(self, name: str, config: ModelConfig) -> bool:
        """Tell whether a tensor that is no part of the model may be in its checkpoint."""
        return self.rule_for(name, config) is not None

    def rule_for(self, name: str, config: ModelConfig) -> str | None:
        """Return why a tensor that is no part of the model may be in its checkpoint.

        None if nothing is known of it.
        """
        if config.tie_word_embeddings and name == _placed(self.head, config.prefix):
            return "the head, which is the embedding table (tie_word_embeddings)"
        if _is_of_later_layer(name, config):
            return "layers that guess further tokens (num_nextn_predict_layers)"
        for pattern in self.ignorable:
            if re.fullmatch(pattern, name):
                return f"{self.model_type} has no use for {pattern}"
        return None

    def attention(self, config: ModelConfig, index: int) -> str:
        """Return what the queries of a decoder layer see: ``full``, ``sliding`` or ``latent``.

        ``latent`` is all keys, made of the latent that is cached in their place.
        """
        if self.expanded_width(config):
            return "latent"
        return "full" if config.windows[index] is None else "sliding"

    def kv_bytes_per_token(self, config: ModelConfig, item_size: int) -> int:
        """Return the bytes of keys and values that one token adds in all layers together."""
        return config.num_hidden_layers * self.kv_bytes_per_layer(config, item_size)

    def kv_bytes_per_layer(self, config: ModelConfig, item_size: int) -> int:
        """Return the bytes of keys and values that one token adds in one layer."""
        return self.kv_width(config) * item_size

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


def _placed(name: str, prefix: str) -> str:
    """Return a name as a checkpoint has it in which the model begins with ``prefix``."""
    if not prefix:
        return name
    if name.startswith(_MODEL):
        return prefix + name.removeprefix(_MODEL)
    return prefix.removesuffix(_MODEL) + name if prefix.endswith("." + _MODEL) else name


def _is_of_later_layer(name: str, config: ModelConfig) -> bool:
    """Tell whether a tensor is of layers that guess further tokens: they come after the others."""
    extra = config.keys.optional_id("num_nextn_predict_layers")
    found = re.match(r"model\.layers\.(\d+)\.", name)
    if extra is None or found is None:
        return False
    first = config.num_hidden_layers
    return first <= int(found[1]) < first + extra
