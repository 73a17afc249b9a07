"""From the contents of config.json to a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from airllm_rs.config.keys import Keys, token_ids
from airllm_rs.config.model_config import FULL, SLIDING, ModelConfig
from airllm_rs.config.rope import rope_parameters
from airllm_rs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KEYS = frozenset({
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps", "hidden_act",
    "max_position_embeddings", "original_max_position_embeddings", "rope_parameters",
    "rope_scaling", "rope_theta", "partial_rotary_factor", "attention_bias", "mlp_bias",
    "tie_word_embeddings", "sliding_window", "use_sliding_window", "max_window_layers",
    "layer_types", "dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id",
})  # fmt: skip
"""The keys of config.json that are read; only these can be overridden."""

ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
"""What ``hidden_act`` may be."""


@dataclass(frozen=True)
class ConfigRules:
    """How the config.json of one family is read."""

    defaults: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """Values of keys that the file lacks, as transformers fills them in."""
    ignored: frozenset[str] = frozenset()
    """Keys of the file that mean nothing to this family, whatever they say."""
    own: frozenset[str] = frozenset()
    """Keys that this family reads beyond `KEYS`."""
    translate: Callable[[Mapping[str, object]], Mapping[str, object]] = dict
    """Gives the keys of the file their usual names."""
    layer_types: Callable[[Keys, int], Sequence[str]] | None = None
    """The kinds of so many layers where the file does not list them."""

    @property
    def known(self) -> frozenset[str]:
        """The keys that can be overridden."""
        return (KEYS - self.ignored) | self.own


def parse_config(
    raw: Mapping[str, object],
    *,
    rules: ConfigRules | None = None,
    overrides: Mapping[str, object] | None = None,
) -> ModelConfig:
    """Return the configuration in the contents of a config.json.

    Args:
        raw: The parsed file.
        rules: How the family reads it.
        overrides: Keys laid over the file.

    Raises:
        ConfigError: for a key that is missing, of a wrong type or out of range, and for an
            override of a key that is not read.
    """
    overrides, rules = overrides or {}, rules or ConfigRules()
    if unknown := sorted(set(overrides) - rules.known):
        known = ", ".join(sorted(rules.known))
        raise ConfigError(f"config_overrides: {unknown[0]!r} is not read here; known: {known}")
    raw = {**raw, **overrides}
    found = {k: v for k, v in rules.translate(raw).items() if k not in rules.ignored}
    keys = Keys({**rules.defaults, **found})
    heads = keys.count("num_attention_heads")
    hidden_size = keys.count("hidden_size")
    head_dim = keys.optional_count("head_dim")
    if head_dim is None:
        if hidden_size % heads:
            raise ConfigError(
                f"config.json: hidden_size ({hidden_size}) is not a multiple of "
                f"num_attention_heads ({heads}), and there is no head_dim"
            )
        head_dim = hidden_size // heads
    layers = keys.count("num_hidden_layers")
    window = (
        keys.optional_count("sliding_window") if keys.flag("use_sliding_window", True) else None
    )
    max_positions = keys.count("max_position_embeddings")
    rope, sliding_rope = rope_parameters(keys, max_positions)
    hidden_act = keys.text("hidden_act", "silu")
    if hidden_act not in ACTIVATIONS:
        raise ConfigError(
            f"hidden_act {hidden_act!r} is not known; known: {', '.join(ACTIVATIONS)}"
        )
    return ModelConfig(
        model_type=keys.text("model_type"),
        hidden_size=hidden_size,
        intermediate_size=keys.count("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys.optional_count("num_key_value_heads") or heads,
        head_dim=head_dim,
        vocab_size=keys.count("vocab_size"),
        rms_norm_eps=keys.positive("rms_norm_eps", 1e-6),
        hidden_act=hidden_act,
        max_position_embeddings=max_positions,
        rope_parameters=rope,
        sliding_rope_parameters=sliding_rope,
        attention_bias=keys.flag("attention_bias", False),
        mlp_bias=keys.flag("mlp_bias", False),
        tie_word_embeddings=keys.flag("tie_word_embeddings", False),
        sliding_window=window,
        layer_types=_layer_types(keys, layers, window, rules),
        dtype=keys.optional_text("dtype") or keys.optional_text("torch_dtype"),
        bos_token_id=keys.optional_id("bos_token_id"),
        eos_token_ids=token_ids(keys.values.get("eos_token_id"), "config.json: eos_token_id"),
        pad_token_id=keys.optional_id("pad_token_id"),
        raw=MappingProxyType(dict(raw)),
        keys=keys,
    )


def _layer_types(
    keys: Keys, layers: int, window: int | None, rules: ConfigRules
) -> tuple[str, ...]:
    listed = keys.values.get("layer_types")
    if listed is None and rules.layer_types is not None and window is not None:
        return tuple(rules.layer_types(keys, layers))
    if listed is None:
        first = (keys.optional_id("max_window_layers") or 0) if window is not None else layers
        return tuple(SLIDING if index >= first else FULL for index in range(layers))
    if not isinstance(listed, list | tuple):
        raise ConfigError(f"config.json: layer_types is {listed!r}, expected a list")
    for kind in listed:
        if kind not in (FULL, SLIDING):
            raise ConfigError(
                f"config.json: layer_types has {kind!r}, expected {FULL!r} or {SLIDING!r}"
            )
        if kind == SLIDING and window is None:
            raise ConfigError(
                f"config.json: layer_types has {SLIDING!r}, but there is no sliding_window"
            )
    return tuple(listed)
