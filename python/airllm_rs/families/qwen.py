"""QWen, the first generation, as Alibaba ships it: NTK and logn past the trained length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import ConfigRules, Keys
from airllm_rs.errors import ConfigError, UnsupportedModelError
from airllm_rs.families.family import Family
from airllm_rs.families.parts import fused_attention, linear, vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import TensorSpec

# Names of the file, those of its first revision among them, and the usual ones.
_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "padded_vocab_size": "vocab_size",
    "layer_norm_epsilon": "rms_norm_eps",
    "kv_channels": "head_dim",
    "rotary_emb_base": "rope_theta",
}
_OWN = ("seq_length", "use_dynamic_ntk", "use_logn_attn", "no_bias", "rotary_pct", *_NAMES)


def _translate(raw: Mapping[str, object]) -> Mapping[str, object]:
    found: dict[str, object] = {}
    for key, value in raw.items():
        usual = _NAMES.get(key, key)
        if usual == key or usual not in raw:
            found[usual] = value
    keys = Keys(found)
    if keys.positive("rotary_pct", 1.0) != 1.0:
        raise UnsupportedModelError(
            f"config.json: rotary_pct is {raw['rotary_pct']!r}; of QWen, only 1.0 is known"
        )
    both = keys.count("intermediate_size")
    if both % 2:
        raise ConfigError(f"config.json: intermediate_size ({both}) is odd; it counts w1 and w2")
    found["intermediate_size"] = both // 2
    found.setdefault("max_position_embeddings", found.get("seq_length"))
    found.setdefault("seq_length", found.get("max_position_embeddings"))
    found.setdefault("tie_word_embeddings", False)
    return found


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    hidden, inner = config.hidden_size, config.intermediate_size
    bias = not config.keys.flag("no_bias", True)
    return (
        vector("ln_1", hidden, "input_layernorm"),
        *fused_attention(config, "attn.c_attn", "attn.c_proj", qkv_bias=True, output_bias=bias),
        vector("ln_2", hidden, "post_attention_layernorm"),
        *linear("mlp.w2", inner, hidden, bias=bias, parameter="mlp.gate_proj"),
        *linear("mlp.w1", inner, hidden, bias=bias, parameter="mlp.up_proj"),
        *linear("mlp.c_proj", hidden, inner, bias=bias, parameter="mlp.down_proj"),
    )


FAMILY = Family(
    "qwen",
    _decoder,
    ConfigRules(
        defaults={
            "rms_norm_eps": 1e-6,
            "use_dynamic_ntk": True,
            "use_logn_attn": True,
            "eos_token_id": 151643,
            "pad_token_id": 151643,
        },
        ignored=frozenset(
            {
                "num_key_value_heads", "sliding_window", "use_sliding_window", "layer_types",
                "max_window_layers", "attention_bias", "mlp_bias", "rope_scaling",
                "rope_parameters", "hidden_act",
            }
        ),
        own=frozenset(_OWN),
        translate=_translate,
    ),
    embedding="transformer.wte.weight",
    norm="transformer.ln_f.weight",
    layer_prefix="transformer.h.{}.",
    ignorable=(r"transformer\.(h\.\d+\.attn\.)?(rotary_emb\.inv_freq|masked_bias|bias|logn_tensor)",),
)  # fmt: skip
