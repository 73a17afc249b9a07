"""gpt-oss: sinks, every other layer with a window, experts that lie together in one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.config import FULL, SLIDING, ConfigRules, Keys
from airllm_rs.families.family import Family, TensorSpec
from airllm_rs.families.parts import attention, gated_mlp, linear, vector

if TYPE_CHECKING:
    from airllm_rs.config import ModelConfig

_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def is_transposed(config: ModelConfig) -> bool:
    """Tell whether the matrices of experts are (inputs, outputs): they are where not packed."""
    if is_split(config):
        return False
    quantization = config.raw.get("quantization_config")
    return not (isinstance(quantization, dict) and quantization.get("quant_method") == "mxfp4")


def is_split(config: ModelConfig) -> bool:
    """Tell whether gate and up are a matrix each; in GGUF files they are."""
    return config.keys.flag("split_gate_up", False)


def _decoder(config: ModelConfig, _index: int) -> tuple[TensorSpec, ...]:
    hidden, inner = config.hidden_size, config.intermediate_size
    experts = config.keys.count("num_local_experts")
    bias = config.attention_bias
    projections = attention(config, qkv_bias=bias, output_bias=bias)
    sinks = TensorSpec("self_attn.sinks", (config.num_attention_heads,))
    mlp = [*linear("mlp.router", experts, hidden, bias=True, parameter="mlp.gate")]
    for number in range(experts):
        if is_split(config):
            mlp += gated_mlp(hidden, inner, bias=True, prefix=f"mlp.experts.{number}.")
            continue
        mlp += _expert(config, number, "gate_up_proj", 2 * inner, hidden)
        mlp += _expert(config, number, "down_proj", hidden, inner)
    return (
        vector("input_layernorm", hidden),
        *projections,
        sinks,
        vector("post_attention_layernorm", hidden),
        *mlp,
    )


def _expert(
    config: ModelConfig, number: int, name: str, outputs: int, inputs: int
) -> tuple[TensorSpec, ...]:
    shape = (inputs, outputs) if is_transposed(config) else (outputs, inputs)
    ours = f"mlp.experts.{number}.{name}"
    return (
        TensorSpec(f"mlp.experts.{name}[{number}]", shape, f"{ours}.weight"),
        TensorSpec(f"mlp.experts.{name}_bias[{number}]", (outputs,), f"{ours}.bias"),
    )


def _alternating(_keys: Keys, layers: int) -> list[str]:
    return [FULL if index % 2 else SLIDING for index in range(layers)]


FAMILY = Family(
    "gpt_oss",
    _decoder,
    ConfigRules(
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "sliding_window": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "rope_parameters": _ROPE,
            "attention_bias": True,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
        },
        ignored=frozenset({"use_sliding_window", "max_window_layers", "mlp_bias"}),
        own=frozenset(
            {
                "num_local_experts",
                "num_experts_per_tok",
                "swiglu_alpha",
                "swiglu_limit",
                "split_gate_up",
            }
        ),
        layer_types=_alternating,
    ),
    scores_heads=lambda config: config.num_attention_heads // config.num_key_value_heads,
)
