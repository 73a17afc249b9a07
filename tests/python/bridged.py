"""Tiny models of transformers, each unlike the others, for what runs through its own layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tiny import END, VOCAB

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

Keys = dict[str, object]

IDS: Keys = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": 0}
PLAIN: Keys = {
    **IDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED: Keys = {**PLAIN, "num_key_value_heads": 2}
GPT: Keys = {**IDS, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
EXPERTS: Keys = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS: Keys = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA: Keys = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16}
ROUTED: Keys = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}

Order = Literal["layers", "chunks", "whole"]
"""How a long prompt runs: layer by layer, chunk by chunk, or in one piece."""


@dataclass(frozen=True)
class Kind:
    """An architecture, and what it has that others have not."""

    model_type: str
    unlike: str
    keys: Keys = field(default_factory=dict)
    order: Order = "layers"
    keeps_tokens: bool = True
    """Whether it can go on from a cache; one that cannot runs all tokens again."""


def _kinds(*listed: Kind) -> dict[str, Kind]:
    named = {kind.model_type: kind for kind in listed}
    return {
        **named,
        **{f"{k.model_type}, {k.unlike}": k for k in listed if k not in named.values()},
    }


STATE: Order = "whole"
KINDS = _kinds(
    Kind("gpt2", "Conv1D, learned positions, tied head", GPT),
    Kind("gpt_bigcode", "multi-query, fused QKV", GPT),
    Kind(
        "gpt_neo",
        "local attention, no scale",
        {
            **IDS,
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 4,
            "window_size": 8,
            "attention_types": [[["global", "local"], 2]],
            "intermediate_size": 96,
            "max_position_embeddings": 128,
        },
    ),
    Kind("gpt_neox", "parallel residual, partial RoPE", PLAIN),
    Kind("gpt_neox_japanese", "a bias at the end of attention alone", PLAIN),
    Kind("gptj", "interleaved RoPE, head with bias", {**GPT, "rotary_dim": 8}),
    Kind("codegen", "QKV in groups of a tensor-parallel layout", {**GPT, "rotary_dim": 8}),
    Kind("openai-gpt", "post-norm, keeps no tokens", GPT, "whole", keeps_tokens=False),
    Kind("ctrl", "sinusoids as positions", {**GPT, "dff": 96}),
    Kind(
        "opt",
        "positions from the mask, projections around the layers",
        {
            **IDS,
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
        },
    ),
    Kind(
        "bloom",
        "ALiBi, norm after the embedding",
        {**IDS, "hidden_size": 64, "n_layer": 3, "n_head": 4},
    ),
    Kind(
        "mpt",
        "ALiBi without biases",
        {
            **IDS,
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 3,
            "max_seq_len": 128,
            "expansion_ratio": 2,
        },
    ),
    Kind("falcon", "parallel attention, one key head", {**PLAIN, "multi_query": True}),
    Kind("falcon", "ALiBi", {**PLAIN, "alibi": True, "multi_query": False, "parallel_attn": False}),
    Kind(
        "falcon",
        "grouped heads, two norms",
        {**PLAIN, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    Kind("phi", "parallel, LayerNorm, biases", GROUPED),
    Kind("stablelm", "LayerNorm, partial RoPE", GROUPED),
    Kind("starcoder2", "LayerNorm, biases, no gate", GROUPED),
    Kind("cohere", "parallel, logits scaled, tied", GROUPED),
    Kind(
        "cohere2",
        "windows with RoPE, full layers without",
        {**GROUPED, "sliding_window": 8, "num_hidden_layers": 4},
    ),
    Kind("olmo", "norms without weights, clipped QKV", {**GROUPED, "clip_qkv": 2.0}),
    Kind("olmo2", "post-norm, QK-norm over all heads", GROUPED),
    Kind("olmo3", "windows, post-norm", {**GROUPED, "sliding_window": 8, "num_hidden_layers": 4}),
    Kind("olmoe", "experts, QK-norm", {**GROUPED, **EXPERTS}),
    Kind(
        "granite",
        "four multipliers",
        {**GROUPED, "logits_scaling": 2.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    ),
    Kind("granitemoe", "experts in one 3-D matrix", {**GROUPED, **LOCAL_EXPERTS}),
    Kind("nemotron", "LayerNorm plus one, squared ReLU", GROUPED),
    Kind("persimmon", "QK-norm per head, squared ReLU", PLAIN),
    Kind(
        "xglm",
        "sinusoids with an offset, scaled embedding",
        {
            **IDS,
            "d_model": 64,
            "ffn_dim": 96,
            "num_layers": 3,
            "attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
    Kind("biogpt", "positions from the mask, scaled embedding", PLAIN),
    Kind("diffllama", "the difference of two attentions", GROUPED),
    Kind("gemma", "norm plus one, scaled embedding", {**GROUPED, "head_dim": 16}),
    Kind(
        "gemma2",
        "soft caps, windows, four norms",
        {**GROUPED, "head_dim": 16, "sliding_window": 8, "num_hidden_layers": 4},
    ),
    Kind(
        "exaone4",
        "windows with RoPE, post-norm",
        {**GROUPED, "num_hidden_layers": 4, "sliding_window": 8, "sliding_window_pattern": 4},
    ),
    Kind("ernie4_5", "interleaved RoPE", {**GROUPED, "head_dim": 16}),
    Kind(
        "ernie4_5_moe",
        "experts with a corrected bias",
        {**GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32},
    ),
    Kind("smollm3", "layers without RoPE", {**GROUPED, "num_hidden_layers": 4}),
    Kind("helium", "interleaved RoPE", {**GROUPED, "head_dim": 16}),
    Kind("bitnet", "norms within attention and MLP", GROUPED),
    Kind("apertus", "xIELU with learned parameters", GROUPED),
    Kind("nanochat", "norms without weights, soft cap", GROUPED),
    Kind("doge", "dynamic masks", GROUPED),
    Kind(
        "jetmoe", "experts of attention", {**GROUPED, **LOCAL_EXPERTS, "kv_channels": 16}, "whole"
    ),
    Kind("mixtral", "experts as files have them, merged", {**GROUPED, **LOCAL_EXPERTS}),
    Kind("phimoe", "sparse mixer, LayerNorm, head with bias", {**GROUPED, **LOCAL_EXPERTS}),
    Kind(
        "qwen2_moe",
        "shared expert with a gate",
        {**GROUPED, **EXPERTS, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
    Kind("dots1", "dense first layer, shared expert", {**GROUPED, **ROUTED}),
    Kind(
        "deepseek_v3",
        "latent attention",
        {
            **PLAIN,
            **ROUTED,
            "q_lora_rank": 32,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
        },
    ),
    Kind(
        "gpt_oss",
        "sinks, experts with biases",
        {**GROUPED, **LOCAL_EXPERTS, "head_dim": 16, "sliding_window": 8, "num_hidden_layers": 4},
    ),
    Kind(
        "llama4_text",
        "chunked attention, complex RoPE, experts [in, out]",
        {
            **GROUPED,
            "num_hidden_layers": 4,
            "head_dim": 16,
            "intermediate_size_mlp": 96,
            "num_local_experts": 4,
            "attention_chunk_size": 8,
        },
    ),
    Kind(
        "gemma3n_text",
        "four streams, an embedding per layer, shared keys",
        {
            **GROUPED,
            "num_hidden_layers": 4,
            "sliding_window": 8,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "head_dim": 16,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size_per_layer_input": 16,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.0] * 4,
            "intermediate_size": [96] * 4,
        },
        "chunks",
    ),
    Kind(
        "mamba",
        "selective state space",
        {**IDS, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8},
        STATE,
    ),
    Kind(
        "falcon_mamba",
        "the same, normalised",
        {**IDS, "hidden_size": 64, "num_hidden_layers": 3, "state_size": 8},
        STATE,
    ),
    Kind(
        "mamba2",
        "state space with heads",
        {
            **IDS,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "state_size": 16,
            "num_heads": 8,
            "head_dim": 16,
            "n_groups": 2,
            "chunk_size": 8,
        },
        STATE,
    ),
    Kind(
        "jamba",
        "Mamba, attention and experts by turns",
        {
            **GROUPED,
            **EXPERTS,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
        },
        STATE,
    ),
    Kind(
        "bamba",
        "Mamba 2 with one attention layer",
        {**GROUPED, **MAMBA, "attn_layer_indices": [1]},
        STATE,
    ),
    Kind(
        "zamba2",
        "Mamba 2 with attention that layers share",
        {
            **PLAIN,
            "num_key_value_heads": 4,
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "num_mem_blocks": 2,
            "mamba_d_state": 16,
            "mamba_ngroups": 2,
            "n_mamba_heads": 8,
            "mamba_headdim": 16,
            "use_shared_attention_adapter": False,
            "use_mamba_kernels": False,
        },
        STATE,
    ),
    Kind(
        "falcon_h1",
        "Mamba and attention side by side",
        {
            **GROUPED,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 16,
            "mamba_chunk_size": 8,
        },
        STATE,
    ),
    Kind(
        "granitemoehybrid",
        "Mamba 2, attention and experts",
        {
            **GROUPED,
            **LOCAL_EXPERTS,
            **MAMBA,
            "layer_types": ["mamba", "attention", "mamba"],
            "mamba_expand": 2,
            "shared_intermediate_size": 32,
        },
        STATE,
    ),
    Kind(
        "nemotron_h",
        "layers of one kind each",
        {
            **GROUPED,
            "layers_block_type": ["mamba", "attention", "moe"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "ssm_state_size": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
        },
        STATE,
    ),
    Kind(
        "qwen3_next",
        "gated delta rule, gated attention",
        {
            **GROUPED,
            **EXPERTS,
            "num_hidden_layers": 4,
            "head_dim": 16,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
        STATE,
    ),
    Kind(
        "lfm2",
        "short convolutions",
        {**GROUPED, "layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 8},
        STATE,
    ),
    Kind(
        "minimax",
        "lightning attention",
        {**GROUPED, **LOCAL_EXPERTS, "num_hidden_layers": 4, "head_dim": 16, "block_size": 8},
        STATE,
    ),
    Kind(
        "recurrent_gemma",
        "linear recurrence, state within its layers",
        {**GROUPED, "lru_width": 64, "attention_window_size": 8, "num_key_value_heads": 1},
        "whole",
        keeps_tokens=False,
    ),
    Kind(
        "rwkv",
        "no attention at all",
        {
            **IDS,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "attention_hidden_size": 64,
            "intermediate_size": 96,
            "context_length": 128,
        },
        "whole",
        keeps_tokens=False,
    ),
)

VISION: Keys = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
MULTIMODAL: dict[str, Keys] = {
    "gemma3": {
        "text_config": {**GROUPED, "head_dim": 16, "sliding_window": 8, "num_hidden_layers": 4},
        "vision_config": {**VISION, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "image_token_index": 100,
        "boi_token_index": 101,
        "eoi_token_index": 102,
    },
    "qwen2_vl": {
        "text_config": {
            **GROUPED,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 3, 3],
            },
        },
        "vision_config": {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64},
        "image_token_id": 100,
        "video_token_id": 101,
        "vision_start_token_id": 102,
        "vision_end_token_id": 103,
    },
    "llama4": {
        "text_config": KINDS["llama4_text"].keys,
        "vision_config": {
            **VISION,
            "vision_output_dim": 32,
            "image_size": 28,
            "patch_size": 14,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        "image_token_index": 100,
        "boi_token_index": 101,
        "eoi_token_index": 102,
    },
}


def bridged_checkpoint(
    model_type: str, keys: Keys, path: Path, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write a checkpoint of random weights to ``path`` and return it.

    Attention is far from uniform, norms and biases are random: a wrong mask, a forgotten position
    or bias shows. What a recurrence needs to stay stable is only moved a little.
    """
    config = AutoConfig.for_model(model_type, **keys)
    kind = AutoModelForImageTextToText if model_type in MULTIMODAL else AutoModelForCausalLM
    model = kind.from_config(config)  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(len(model_type))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1 and "bias" in name:
                parameter.copy_(0.3 * noise)
            elif parameter.dim() == 1 or any(part in name for part in ("A_log", "conv", "time_")):
                parameter.add_(0.1 * noise)
            elif any(part in name for part in ("emb", "wte", "wpe")):
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(noise * (1.5 / parameter.shape[-1] ** 0.5))
    if dtype != torch.float32:
        model.to(dtype)
    model.save_pretrained(path)
    return path


def bridged_oracle(
    model_type: str, path: Path, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Load the checkpoint with transformers."""
    # of Llama 4 it has a class for the text part alone, and that of the whole fails on text
    is_whole = model_type in MULTIMODAL and model_type != "llama4"
    kind = AutoModelForImageTextToText if is_whole else AutoModelForCausalLM
    model: PreTrainedModel = kind.from_pretrained(path, dtype=dtype)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def rows() -> list[dict[str, str]]:
    """Return a row of a table for each architecture: what it is, and what tests check of it."""
    words = {
        "layers": "layer by layer",
        "chunks": "chunk by chunk",
        "whole": "in one piece",
    }
    return [
        {
            "model_type": kind.model_type,
            "unlike": kind.unlike,
            "long prompts": words[kind.order],
            "checked": "logits, padded batch, greedy tokens; resident, streamed, ring below a layer"
            + (", cached decode" if kind.keeps_tokens else " (all tokens run again at every step)"),
        }
        for kind in KINDS.values()
    ]
