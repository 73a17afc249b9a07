"""Tiny checkpoints of the families that transformers knows, and transformers as their oracle."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from tiny import SHAPE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

Keys = dict[str, object]

WINDOW = 8
THETA = {"rope_theta": 10000.0}

# what is unusual is set so that it shows: caps below the scores, scalings unlike the head's size
GEMMA: Keys = {
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": WINDOW,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
PHI3_LONG: Keys = {
    "tie_word_embeddings": True,
    "sliding_window": None,
    "original_max_position_embeddings": 16,
    "rope_parameters": {
        **THETA,
        "rope_type": "longrope",
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
        "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
    },
}
YARN: Keys = {
    "rope_parameters": {
        **THETA,
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 0.7,
        "mscale_all_dim": 0.7,
    },
}
MOE: Keys = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
MLA: Keys = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 20,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
}

KINDS: dict[str, tuple[str, Keys]] = {
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.4,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.5,
        },
    ),
    "llama": ("llama", {}),
    "llama, tied, biases": (
        "llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "phi3": ("phi3", {"sliding_window": None}),
    "phi3, window": ("phi3", {"sliding_window": WINDOW}),
    "phi3, partial longrope": ("phi3", PHI3_LONG),
    "glm": ("glm", {"head_dim": 16, "attention_bias": True}),
    "glm, no bias": ("glm", {"head_dim": 16, "attention_bias": False}),
    "glm4": ("glm4", {"head_dim": 16, "attention_bias": True}),
    "gemma2": (
        "gemma2",
        {**GEMMA, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3_text": (
        "gemma3_text",
        {
            **GEMMA,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {**THETA, "rope_type": "linear", "factor": 4.0},
            },
        },
    ),
    "mixtral": (
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "mixtral, window": (
        "mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
    "qwen3_moe": ("qwen3_moe", {**MOE, "head_dim": 32, "norm_topk_prob": True}),
    "qwen3_moe, dense layer": (
        "qwen3_moe",
        {**MOE, "head_dim": 16, "mlp_only_layers": [1], "norm_topk_prob": False},
    ),
    "qwen3_moe, sparse step": (
        "qwen3_moe",
        {**MOE, "head_dim": 16, "decoder_sparse_step": 2, "norm_topk_prob": True},
    ),
    "deepseek_v2": ("deepseek_v2", {**MLA, "topk_method": "group_limited_greedy"}),
    "deepseek_v2, no q_lora": (
        "deepseek_v2",
        {**MLA, "q_lora_rank": None, "topk_method": "greedy"},
    ),
    "deepseek_v2, yarn": ("deepseek_v2", {**MLA, **YARN, "topk_method": "greedy"}),
    "deepseek_v3": ("deepseek_v3", MLA),
    "deepseek_v3, no q_lora": (
        "deepseek_v3",
        {**MLA, "q_lora_rank": None, "norm_topk_prob": False},
    ),
    "deepseek_v3, yarn": ("deepseek_v3", {**MLA, **YARN, "first_k_dense_replace": 2}),
    "gpt_oss": (
        "gpt_oss",
        {
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
"""Name -> ``model_type``, keys of config.json over those of all."""

DEPEND_ON_LENGTH = ("phi3, partial longrope",)
"""Kinds whose rotation changes when a sequence grows past a length."""

MIXTURES = ("mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss")
"""Families that choose experts."""

_QUERIES = (
    "q_proj",
    "k_proj",
    "qkv_proj",
    "q_b_proj",
    "kv_b_proj",
    "kv_a_proj",
    "router",
    "gate.w",
)


def write(
    kind: str, path: Path, dtype: torch.dtype = torch.float32, others: Keys | None = None
) -> Path:
    """Write the checkpoint of a kind, as transformers saves it, into ``path`` and return it.

    Attention is far from uniform; norms, biases, sinks and corrections are random; every value is
    a bfloat16. ``others`` are laid over its keys of config.json.
    """
    model_type, keys = KINDS[kind]
    config = AutoConfig.for_model(
        model_type, **{**SHAPE, "num_hidden_layers": 3, **keys, **(others or {})}
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(zlib.crc32(kind.encode()))
    saved = model.state_dict()
    with torch.no_grad():
        for name, tensor in saved.items():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(_scaled(name, noise, model_type).bfloat16())
    model.tie_weights()
    model.to(dtype).save_pretrained(path)  # type: ignore[arg-type]
    return path


def _scaled(name: str, noise: Tensor, model_type: str) -> Tensor:
    if noise.dim() == 1 or name.endswith("bias"):
        is_norm = "norm" in name and not model_type.startswith("gemma")  # theirs count from one
        return 0.3 * noise + (1.0 if is_norm else 0.0)
    if "embed" in name:
        return 0.5 * noise if model_type.startswith("gemma") else noise
    inputs = noise.shape[1] if model_type == "gpt_oss" and "experts" in name else noise.shape[-1]
    gain = 3.0 if any(part in name for part in _QUERIES) else 1.0
    scale: float = gain / inputs**0.5
    return noise * scale


def model_of(
    path: Path, dtype: torch.dtype = torch.float32, *, keys: Keys | None = None
) -> PreTrainedModel:
    """Load a checkpoint with transformers; ``keys`` are laid over config.json."""
    changed = keys or {}
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **changed)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def logits(
    model: PreTrainedModel, ids: Tensor, calls: Sequence[tuple[int, int]], mask: Tensor | None
) -> Tensor:
    """Return the logits (B, T, V) of ``ids`` (B, T), given in so many ``calls``."""
    cache = DynamicCache(config=model.config)
    parts = []
    with torch.no_grad():
        for start, stop in calls:
            seen = None if mask is None else mask[:, :stop]
            # by position: the cache's keyword differs between versions
            out = model(ids[:, start:stop], seen, None, cache, use_cache=True)
            parts.append(out.logits.double())
    return torch.cat(parts, dim=1)
