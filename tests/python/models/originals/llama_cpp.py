"""llama.cpp as a judge: the makers' checkpoints as GGUF files of float32, and what it answers.

It has chatglm, qwen (without NTK and logn), internlm2 and baichuan (of 32 or 40 layers alone; its
converter does not normalise the head of Baichuan2).
"""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Weights = dict[str, "NDArray[np.float32]"]

TOP = {
    "chatglm": {
        "token_embd": "transformer.embedding.word_embeddings",
        "output_norm": "transformer.encoder.final_layernorm",
        "output": "transformer.output_layer",
    },
    "qwen": {
        "token_embd": "transformer.wte",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    },
    "baichuan": {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
    },
    "internlm2": {
        "token_embd": "model.tok_embeddings",
        "output_norm": "model.norm",
        "output": "output",
    },
}
PREFIX = {
    "chatglm": "transformer.encoder.layers.{}.",
    "qwen": "transformer.h.{}.",
    "baichuan": "model.layers.{}.",
    "internlm2": "model.layers.{}.",
}
LAYER = {
    "chatglm": {
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attention.query_key_value",
        "attn_output": "self_attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    },
    "qwen": {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.w1",
        "ffn_gate": "mlp.w2",
        "ffn_down": "mlp.c_proj",
    },
    "baichuan": {
        "attn_norm": "input_layernorm",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.up_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_down": "mlp.down_proj",
    },
    "internlm2": {
        "attn_norm": "attention_norm",
        "attn_output": "attention.wo",
        "ffn_norm": "ffn_norm",
        "ffn_up": "feed_forward.w3",
        "ffn_gate": "feed_forward.w1",
        "ffn_down": "feed_forward.w2",
    },
}


def is_installed() -> bool:
    """Tell whether llama.cpp can be run here."""
    return importlib.util.find_spec("xllamacpp") is not None


def write(path: Path, config: Mapping[str, Any], weights: Weights, *, norm_head: bool) -> None:
    """Write a checkpoint of the makers as a GGUF file; its tokenizer is a placeholder."""
    import gguf

    family = config["model_type"]
    vocab = config.get("padded_vocab_size", config.get("vocab_size"))
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    layers = config.get("num_layers", config.get("num_hidden_layers"))
    groups = config.get("multi_query_group_num", config.get("num_key_value_heads", heads))
    eps = next(config[key] for key in config if key.endswith(("norm_eps", "norm_epsilon")))
    inner = config.get("ffn_hidden_size", config.get("intermediate_size"))
    base = config.get("rope_theta", config.get("rotary_emb_base", 10000))
    turned = hidden // heads // 2 if family == "chatglm" else hidden // heads
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(eps)
    writer.add_file_type(0)
    writer.add_rope_dimension_count(turned)
    writer.add_rope_freq_base(float(base * config.get("rope_ratio", 1)))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, vocab))])
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([2, 3, 3] + [1] * (vocab - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    tensors = _tensors(family, layers, heads, groups, weights)
    if norm_head:
        rows = tensors["output.weight"]
        tensors["output.weight"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(family: str, layers: int, heads: int, groups: int, weights: Weights) -> Weights:
    names = dict(TOP[family])
    tensors: Weights = {}
    for n in range(layers):
        prefix = PREFIX[family].format(n)
        names |= {f"blk.{n}.{new}": f"{prefix}{old}" for new, old in LAYER[family].items()}
        if family == "baichuan":
            q, k, v = np.split(weights[f"{prefix}self_attn.W_pack.weight"], 3)
        elif family == "internlm2":
            fused = weights[f"{prefix}attention.wqkv.weight"]
            each = heads // groups
            grouped = fused.reshape(groups, each + 2, -1, fused.shape[1])
            q, k, v = (
                part.reshape(-1, fused.shape[1])
                for part in np.split(grouped, [each, each + 1], axis=1)
            )
        else:
            continue
        tensors[f"blk.{n}.attn_q.weight"] = _pairs(q, heads)
        tensors[f"blk.{n}.attn_k.weight"] = _pairs(k, groups)
        tensors[f"blk.{n}.attn_v.weight"] = v
    for new, old in names.items():
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in weights:
                tensors[f"{new}.{kind}"] = weights[f"{old}.{kind}"]
    return tensors


def _pairs(x: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Put rows that are turned together beside each other, as llama.cpp has them."""
    return x.reshape(heads, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def next_logprobs(path: Path, ids: NDArray[np.int64], vocab: int) -> NDArray[np.float64]:
    """Return the log-probabilities (B, V) of what follows each row of ``ids`` (B, T)."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 64, 1, False
    parameters.cpuparams.n_threads = 1  # more of them wait for each other by spinning
    off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.flash_attn_type = off
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(parameters)
    rows = np.zeros((len(ids), vocab))
    for row, prompt in zip(rows, ids.tolist(), strict=True):
        answer = server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": 1,
                "temperature": 0.0,
                "n_probs": vocab,
                "cache_prompt": False,
            }
        )
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        listed = answer.get("completion_probabilities")
        listed = listed or answer["choices"][0]["logprobs"]["content"]
        found = {entry["id"]: entry["logprob"] for entry in listed[0]["top_logprobs"]}
        assert len(found) == vocab
        row[:] = [found[token] for token in range(vocab)]
    return rows
