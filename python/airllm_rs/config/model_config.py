"""What is known of a model from its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airllm_rs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config.keys import Keys

FULL = "full_attention"
SLIDING = "sliding_attention"


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
    sliding_rope_parameters: Mapping[str, object] | None
    """The same of sliding layers, where they differ from the others."""
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
    keys: Keys = field(repr=False, compare=False)
    """The same under Hugging Face's names, with defaults: for what only some families have."""
    prefix: str = ""
    """What names of tensors begin with instead of ``model.``; empty for that."""
    head: str = ""
    """What the head is called, if not as the family calls it; empty for that."""

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
