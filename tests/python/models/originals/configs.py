"""Contents of config.json as the makers of each family write them, of tiny models."""

from __future__ import annotations

Config = dict[str, object]

VOCAB = 64
HIDDEN = 64
LAYERS = 2
TOKENS: Config = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def chatglm(*, heads: int = 4, groups: int = 2, rope_ratio: float | None = None) -> Config:
    """ChatGLM2 and 3; with ``rope_ratio`` GLM-4-9B in its first form."""
    config: Config = {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"},
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": 80,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": HIDDEN,
        "kv_channels": HIDDEN // heads,
        "layernorm_epsilon": 1e-05,
        "multi_query_attention": True,
        "multi_query_group_num": groups,
        "num_attention_heads": heads,
        "num_layers": LAYERS,
        "original_rope": True,
        "padded_vocab_size": VOCAB,
        "post_layer_norm": True,
        "quantization_bit": 0,
        "rmsnorm": True,
        "seq_length": 128,
        "tie_word_embeddings": False,
        "use_cache": True,
        "transformers_version": "4.27.1",
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if rope_ratio is not None:
        config |= {"rope_ratio": rope_ratio, "eos_token_id": [2, 60, 61], "vocab_size": VOCAB}
    return config


def qwen(*, seq_length: int, **keys: object) -> Config:
    """QWen v1."""
    return {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"},
        "attn_dropout_prob": 0.0,
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 160,
        "kv_channels": 16,
        "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": seq_length,
        "no_bias": True,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "onnx_safe": None,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": seq_length,
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "transformers_version": "4.32.0",
        "use_cache": True,
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": VOCAB,
        **keys,
    }


def qwen_first(*, seq_length: int) -> Config:
    """QWen-7B as it was first published, with other keys."""
    return {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "activation": "swiglu",
        "apply_residual_connection_post_layernorm": False,
        "attn_pdrop": 0.0,
        "bf16": False,
        "bias_dropout_fusion": True,
        "embd_pdrop": 0.0,
        "ffn_hidden_size": 160,
        "fp16": False,
        "fp32": False,
        "initializer_range": 0.02,
        "kv_channels": 16,
        "layer_norm_epsilon": 1e-06,
        "n_embd": HIDDEN,
        "n_head": 4,
        "n_layer": LAYERS,
        "n_positions": 48,
        "no_bias": True,
        "onnx_safe": None,
        "padded_vocab_size": VOCAB,
        "params_dtype": "torch.bfloat16",
        "pos_emb": "rotary",
        "resid_pdrop": 0.0,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": seq_length,
        "tie_word_embeddings": False,
        "tokenizer_type": "QWenTokenizer",
        "transformers_version": "4.31.0",
        "use_cache": True,
        "use_dynamic_ntk": True,
        "use_flash_attn": True,
        "use_logn_attn": True,
        "vocab_size": VOCAB,
    }


def baichuan(
    prefix: str = "Baichuan", *, heads: int = 4, rope: bool = False, z_loss: bool = False
) -> Config:
    """Baichuan 1 and 2; ``prefix`` is BaiChuan in the first 7B alone."""
    config: Config = {
        "model_type": "baichuan",
        "architectures": [f"{prefix}ForCausalLM"],
        "auto_map": {"AutoConfig": f"configuration_baichuan.{prefix}Config"},
        "hidden_act": "silu",
        "hidden_size": 16 * heads,
        "initializer_range": 0.02,
        "intermediate_size": 80,
        "num_attention_heads": heads,
        "num_hidden_layers": LAYERS,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "transformers_version": "4.29.2",
        "use_cache": True,
        "vocab_size": VOCAB,
        **TOKENS,
    }
    if rope:
        config["max_position_embeddings"] = 128
    if prefix == "Baichuan":
        config |= {"model_max_length": 128, "_from_model_config": True}
    if z_loss:
        config["z_loss_weight"] = 0
    return config


def internlm(**keys: object) -> Config:
    """InternLM 1."""
    return {
        "model_type": "internlm",
        "architectures": ["InternLMForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_internlm.InternLMConfig"},
        "bias": True,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 80,
        "max_position_embeddings": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "transformers_version": "4.33.2",
        "use_cache": True,
        "vocab_size": VOCAB,
        **TOKENS,
        **keys,
    }


def internlm2(**keys: object) -> Config:
    """InternLM 2 and 2.5."""
    return {
        **internlm(),
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "attn_implementation": "eager",
        "bias": False,
        "num_key_value_heads": 2,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 1000000,
        **keys,
    }


def internlm3(**keys: object) -> Config:
    """InternLM 3."""
    return {
        **internlm(),
        "model_type": "internlm3",
        "architectures": ["InternLM3ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_internlm3.InternLM3Config"},
        "bias": False,
        "head_dim": 16,
        "num_key_value_heads": 2,
        "qkv_bias": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 50000000,
        **keys,
    }


def yi() -> Config:
    """Yi as it was first published."""
    return {
        **internlm(),
        "model_type": "Yi",
        "architectures": ["YiForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_yi.YiConfig"},
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_theta": 5000000.0,
    }
