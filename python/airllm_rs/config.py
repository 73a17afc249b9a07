"""The configuration of a model: config.json, parsed and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from airllm_rs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FULL = "full_attention"
SLIDING = "sliding_attention"
DEFAULT_THETA = 10_000.0

# RoPE types whose frequencies depend on the length that the model was first trained for.
_SCALED_FROM_ORIGINAL = ("llama3", "yarn", "longrope")

KEYS = frozenset({
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps", "hidden_act",
    "max_position_embeddings", "original_max_position_embeddings", "rope_parameters",
    "rope_scaling", "rope_theta", "partial_rotary_factor", "attention_bias", "mlp_bias",
    "tie_word_embeddings", "sliding_window", "use_sliding_window", "max_window_layers",
    "layer_types", "dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id",
})  # fmt: skip
"""The keys of config.json that are read; only these can be overridden."""


@dataclass(frozen=True)
class ModelConfig:
    """What config.json says, under Hugging Face's names, with the defaults of the family."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    hidden_act: str
    max_position_embeddings: int
    rope_parameters: Mapping[str, object]
    """With ``rope_type`` and ``rope_theta`` at least, as transformers 5 spells them."""
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    sliding_window: int | None
    """How many of the latest keys a query of a sliding layer sees; None if no layer slides."""
    layer_types: tuple[str, ...]
    """``full_attention`` or ``sliding_attention``, one per decoder layer."""
    dtype: str | None
    """The dtype that the file names (``"bfloat16"``); the tensors themselves decide."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    raw: Mapping[str, object] = field(repr=False, compare=False)
    """All of config.json, overrides laid over it."""

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"config.json: num_attention_heads ({self.num_attention_heads}) is not a multiple "
                f"of num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ConfigError(f"config.json: head_dim ({self.head_dim}) is odd")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(
                f"config.json: layer_types has {len(self.layer_types)} entries, "
                f"num_hidden_layers is {self.num_hidden_layers}"
            )

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The attention window of each decoder layer, None where a query sees all keys."""
        return tuple(self.sliding_window if kind == SLIDING else None for kind in self.layer_types)


def parse_config(
    raw: Mapping[str, object],
    *,
    defaults: Mapping[str, object] = MappingProxyType({}),
    ignored: Collection[str] = (),
    overrides: Mapping[str, object] | None = None,
) -> ModelConfig:
    """Return the configuration in the contents of a config.json.

    Args:
        raw: The parsed file.
        defaults: Values of keys that the file lacks.
        ignored: Keys of the file that mean nothing to this family.
        overrides: Keys laid over the file.

    Raises:
        ConfigError: for a key that is missing, of a wrong type or out of range, and for an
            override of a key that is not read.
    """
    overrides = overrides or {}
    if unknown := sorted(set(overrides) - (KEYS - set(ignored))):
        known = ", ".join(sorted(KEYS - set(ignored)))
        raise ConfigError(f"config_overrides: {unknown[0]!r} is not read here; known: {known}")
    raw = {**raw, **overrides}
    keys = _Keys({**defaults, **{k: v for k, v in raw.items() if k not in ignored}})
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
        hidden_act=keys.text("hidden_act", "silu"),
        max_position_embeddings=max_positions,
        rope_parameters=_rope_parameters(keys, max_positions),
        attention_bias=keys.flag("attention_bias", False),
        mlp_bias=keys.flag("mlp_bias", False),
        tie_word_embeddings=keys.flag("tie_word_embeddings", False),
        sliding_window=window,
        layer_types=_layer_types(keys, layers, window),
        dtype=keys.optional_text("dtype") or keys.optional_text("torch_dtype"),
        bos_token_id=keys.optional_id("bos_token_id"),
        eos_token_ids=token_ids(keys.values.get("eos_token_id"), "config.json: eos_token_id"),
        pad_token_id=keys.optional_id("pad_token_id"),
        raw=MappingProxyType(dict(raw)),
    )


def token_ids(value: object, where: str) -> tuple[int, ...]:
    """Return token ids that a file gives as nothing, a number or a list.

    Raises:
        ConfigError: for anything else, beginning with ``where``.
    """
    listed = value if isinstance(value, list | tuple) else [] if value is None else [value]
    ids = tuple(entry for entry in listed if isinstance(entry, int) and not isinstance(entry, bool))
    if len(ids) != len(listed):
        raise ConfigError(f"{where} is {value!r}, expected a token id or a list of them")
    return ids


class _Keys:
    """Typed access to the keys of config.json."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values

    def text(self, key: str, default: str | None = None) -> str:
        value = self.optional_text(key)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"config.json: {key} is missing")
        return value

    def optional_text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"config.json: {key} is {value!r}, expected a string")
        return value

    def count(self, key: str) -> int:
        value = self.optional_count(key)
        if value is None:
            raise ConfigError(f"config.json: {key} is missing")
        return value

    def optional_count(self, key: str) -> int | None:
        value = self._optional_int(key)
        if value is not None and value < 1:
            raise ConfigError(f"config.json: {key} is {value}, expected 1 or more")
        return value

    def optional_id(self, key: str) -> int | None:
        return self._optional_int(key)

    def positive(self, key: str, default: float) -> float:
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"config.json: {key} is {value!r}, expected a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ConfigError(f"config.json: {key} is {value!r}, expected true or false")
        return value

    def mapping(self, key: str) -> Mapping[str, object]:
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ConfigError(f"config.json: {key} is {value!r}, expected an object")
        return value

    def _optional_int(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"config.json: {key} is {value!r}, expected a whole number")
        return value


def _rope_parameters(keys: _Keys, max_positions: int) -> Mapping[str, object]:
    """Return the RoPE parameters in transformers 5's spelling, from either spelling."""
    found = dict(keys.mapping("rope_scaling") or keys.mapping("rope_parameters"))
    if any(isinstance(value, dict) for value in found.values()):
        raise ConfigError("config.json: RoPE parameters per layer type are not supported")
    found.setdefault("rope_theta", keys.positive("rope_theta", DEFAULT_THETA))
    if keys.values.get("partial_rotary_factor") is not None:
        found.setdefault("partial_rotary_factor", keys.positive("partial_rotary_factor", 1.0))
    kind = found.setdefault("rope_type", found.get("type", "default"))
    if not isinstance(kind, str):
        raise ConfigError(f"config.json: rope_type is {kind!r}, expected a string")
    if kind in _SCALED_FROM_ORIGINAL:
        original = keys.optional_count("original_max_position_embeddings")
        if original is not None:
            found["original_max_position_embeddings"] = original
        else:
            found.setdefault("original_max_position_embeddings", max_positions)
    return MappingProxyType(found)


def _layer_types(keys: _Keys, layers: int, window: int | None) -> tuple[str, ...]:
    listed = keys.values.get("layer_types")
    if listed is None:
        first = (keys.optional_count("max_window_layers") or 0) if window is not None else layers
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
