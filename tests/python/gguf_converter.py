"""Checkpoints as GGUF files, as llama.cpp's converter makes them of what is published.

Names come from the tables of the gguf package, keys from its writer; what the converter does to
tensors (reorder rows, add one to norms, take matrices apart, stack experts) is written down here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from checkpoint.gguf_files import permute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]

F32 = gguf.GGMLQuantizationType.F32

NAMES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "Yi": gguf.MODEL_ARCH.LLAMA,
    "internlm": gguf.MODEL_ARCH.LLAMA,
    "internlm2": gguf.MODEL_ARCH.INTERNLM2,
    "internlm3": gguf.MODEL_ARCH.LLAMA,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "qwen": gguf.MODEL_ARCH.QWEN,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "baichuan": gguf.MODEL_ARCH.BAICHUAN,
    "chatglm": gguf.MODEL_ARCH.CHATGLM,
    "glm": gguf.MODEL_ARCH.CHATGLM,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
}
"""``model_type`` -> what llama.cpp takes it for."""

_PERMUTED = ("llama", "mistral", "mixtral", "Yi", "internlm", "internlm3", "granite")
_GEMMA = ("gemma2", "gemma3_text")
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")


@dataclass(frozen=True)
class Sizes:
    """What most writers of keys need."""

    config: Mapping[str, Any]
    family: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", self.config["model_type"])

    def first(self, *keys: str, default: Any = None) -> Any:  # noqa: ANN401 - of config.json
        """Return the value of the first key that there is."""
        return next((self.config[key] for key in keys if self.config.get(key) is not None), default)

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self.first("num_hidden_layers", "num_layers", "n_layer"))

    @property
    def heads(self) -> int:
        """Heads of queries."""
        return int(self.first("num_attention_heads"))

    @property
    def kv_heads(self) -> int:
        """Heads of keys."""
        return int(self.first("multi_query_group_num", "num_key_value_heads", default=self.heads))

    @property
    def head_dim(self) -> int:
        """Items of a head."""
        return int(self.first("head_dim", default=self.config["hidden_size"] // self.heads))

    @property
    def rope(self) -> Mapping[str, Any]:
        """The parameters of RoPE, those of layers that see all keys if there are several."""
        found = self.first("rope_parameters", "rope_scaling", default={})
        return found.get("full_attention", found)  # type: ignore[no-any-return]


def convert(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Array],
    *,
    kind: gguf.GGMLQuantizationType = F32,
    splits_kv_b: bool = True,
    stacks_experts: bool = True,
    part_tensors: int = 0,
) -> Path:
    """Write a checkpoint as a GGUF file; its tokenizer is a placeholder.

    Args:
        path: The file.
        config: The contents of config.json.
        tensors: By the checkpoint's names.
        kind: Of matrices whose rows are whole blocks.
        splits_kv_b: Whether DeepSeek's files are those of converters since April 2025.
        part_tensors: How many tensors a part has of a model that is split; 0 for one file.
        stacks_experts: Whether Mixtral's are those of converters since April 2024.
    """
    sizes = Sizes(config)
    arch = NAMES[sizes.family]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch], split_max_tensors=part_tensors)
    _write_keys(writer, sizes, splits_kv_b=splits_kv_b)
    _write_vocabulary(writer, int(sizes.first("padded_vocab_size", "vocab_size")))
    names = gguf.get_tensor_name_map(arch, sizes.layers)
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    for name, tensor in _modified(sizes, dict(tensors), splits_kv_b=splits_kv_b):
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        data = np.ascontiguousarray(tensor, np.float32)
        if not stacks_experts and data.ndim == 3:
            stem, suffix = theirs.replace("_exps", "").rsplit(".", 1)
            for number, one in enumerate(data):
                writer.add_tensor(f"{stem}.{number}.{suffix}", one)
        elif data.ndim == 1 or kind == F32 or data.shape[-1] % block or name.endswith("bias"):
            writer.add_tensor(theirs, data)
        else:
            writer.add_tensor(theirs, gguf.quantize(data, kind), raw_dtype=kind)
    for name, factors in _rope_factors(sizes):
        writer.add_tensor(name, np.array(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# Tensors.


def _modified(sizes: Sizes, tensors: Tensors, *, splits_kv_b: bool) -> Iterator[tuple[str, Array]]:
    """Yield what the converter makes of tensors, under names that the tables know."""
    family = sizes.family
    stacks: dict[tuple[str, str], dict[int, Array]] = {}
    change = _CHANGES.get(family)
    for name, tensor in tensors.items():
        if name.endswith("inv_freq") or (name == "lm_head.weight" and family in _GEMMA):
            continue
        if found := _EXPERT.fullmatch(name):
            stacks.setdefault((found[1], found[3]), {})[int(found[2])] = tensor
        elif family in _PERMUTED and re.search(r"[qk]_proj\.(weight|bias)$", name):
            yield name, permute(tensor, sizes.heads if "q_proj" in name else sizes.kv_heads)
        elif family in _GEMMA and name.endswith("norm.weight"):
            yield name, tensor + 1
        elif name.endswith("e_score_correction_bias"):
            yield name.replace("e_score_correction_bias", "e_score_correction.bias"), tensor
        elif name.endswith("kv_b_proj.weight") and splits_kv_b:
            yield from _split_kv_b(sizes, name, tensor)
        elif family == "chatglm":
            yield name.removeprefix("transformer."), tensor
        elif change is not None:
            yield from change(sizes, name, tensor)
        else:
            yield name, tensor
    for (prefix, part), experts in stacks.items():
        assert sorted(experts) == list(range(len(experts)))
        yield f"{prefix}.{part}.weight", np.stack([experts[n] for n in sorted(experts)])


def _split_kv_b(sizes: Sizes, name: str, tensor: Array) -> Iterator[tuple[str, Array]]:
    nope, value = sizes.config["qk_nope_head_dim"], sizes.config["v_head_dim"]
    both = tensor.reshape(sizes.heads, nope + value, -1)
    yield name.replace("kv_b_proj", "k_b_proj"), both[:, :nope].swapaxes(1, 2)
    yield name.replace("kv_b_proj", "v_b_proj"), both[:, nope:]


def _baichuan(sizes: Sizes, name: str, tensor: Array) -> Iterator[tuple[str, Array]]:
    if not name.endswith("W_pack.weight"):
        yield name, tensor
        return
    q, k, v = np.split(tensor, 3)
    yield name.replace("W_pack", "q_proj"), permute(q, sizes.heads)
    yield name.replace("W_pack", "k_proj"), permute(k, sizes.heads)
    yield name.replace("W_pack", "v_proj"), v


def _internlm2(sizes: Sizes, name: str, tensor: Array) -> Iterator[tuple[str, Array]]:
    if ".attention.wqkv." not in name:
        yield name, tensor
        return
    each = sizes.heads // sizes.kv_heads
    shape = (sizes.kv_heads, each + 2, sizes.head_dim, *tensor.shape[1:])
    groups = tensor.reshape(shape)
    rest = tensor.shape[1:]
    for ours, part, heads in (
        ("q_proj", groups[:, :each], sizes.heads),
        ("k_proj", groups[:, -2], sizes.kv_heads),
        ("v_proj", groups[:, -1], 0),
    ):
        rows = part.reshape(-1, *rest)
        renamed = name.replace("attention.wqkv", f"self_attn.{ours}")
        yield renamed, permute(rows, heads) if heads else rows


def _gpt_oss(_sizes: Sizes, name: str, tensor: Array) -> Iterator[tuple[str, Array]]:
    if name.endswith("sinks"):
        yield f"{name}.weight", tensor
        return
    found = re.fullmatch(r"(.*\.experts)\.(gate_up|down)_proj(_bias)?", name)
    if found is None:
        yield name, tensor
        return
    suffix = "bias" if found[3] else "weight"
    rows = tensor if found[3] else tensor.swapaxes(1, 2)
    if found[2] == "down":
        yield f"{found[1]}.down_proj.{suffix}", rows
    else:
        yield f"{found[1]}.gate_proj.{suffix}", rows[:, ::2]
        yield f"{found[1]}.up_proj.{suffix}", rows[:, 1::2]


_CHANGES: dict[str, Callable[[Sizes, str, Array], Iterator[tuple[str, Array]]]] = {
    "baichuan": _baichuan,
    "internlm2": _internlm2,
    "gpt_oss": _gpt_oss,
}


def _rope_factors(sizes: Sizes) -> Iterator[tuple[str, list[float]]]:
    if sizes.family == "phi3" and "long_factor" in sizes.rope:
        yield "rope_factors_long.weight", sizes.rope["long_factor"]
        yield "rope_factors_short.weight", sizes.rope["short_factor"]


# Keys.


def _write_keys(writer: gguf.GGUFWriter, sizes: Sizes, *, splits_kv_b: bool) -> None:
    config, family = sizes.config, sizes.family
    lengths = ("max_position_embeddings", "seq_length", "model_max_length")
    writer.add_context_length(sizes.first(*lengths))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(sizes.first("ffn_hidden_size", "intermediate_size"))
    writer.add_block_count(sizes.layers)
    writer.add_head_count(sizes.heads)
    writer.add_layer_norm_rms_eps(
        sizes.first("rms_norm_eps", "layernorm_epsilon", "layer_norm_epsilon")
    )
    writer.add_file_type(0)
    if family != "qwen":
        writer.add_head_count_kv(sizes.kv_heads)
    if "deepseek" in family:
        _write_latent_keys(writer, sizes, splits_kv_b=splits_kv_b)
    else:
        if config.get("head_dim") is not None and family != "granite":
            writer.add_key_length(sizes.head_dim)
            writer.add_value_length(sizes.head_dim)
        share = sizes.rope.get("partial_rotary_factor", sizes.first("partial_rotary_factor"))
        if family in ("chatglm", "glm", "glm4"):
            share = share or 0.5
        if family not in _GEMMA and family not in ("gpt_oss", "internlm2"):
            writer.add_rope_dimension_count(int(sizes.head_dim * (share or 1)))
    _write_rope(writer, sizes)
    if window := sizes.first("sliding_window"):
        writer.add_sliding_window(window)
    elif family == "phi3":
        writer.add_sliding_window(0)
    _write_expert_keys(writer, sizes)
    if family == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _write_rope(writer: gguf.GGUFWriter, sizes: Sizes) -> None:
    rope, family = sizes.rope, sizes.family
    theta = rope.get("rope_theta", sizes.first("rope_theta", "rotary_emb_base", default=10000.0))
    if family != "baichuan":
        writer.add_rope_freq_base(float(theta) * float(sizes.first("rope_ratio", default=1)))
    kind = rope.get("rope_type", "default")
    if family == "phi3":
        original = sizes.first("original_max_position_embeddings")
        original = rope.get("original_max_position_embeddings", original)
        writer.add_rope_scaling_orig_ctx_len(original)
        if kind == "longrope":
            scale = sizes.config["max_position_embeddings"] / original
            gain = (1 + log(scale) / log(original)) ** 0.5 if scale > 1 else 1.0
            writer.add_rope_scaling_attn_factors(gain)
    elif kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "mscale_all_dim" in rope:
            writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
    else:
        assert kind == "default", kind


def _write_latent_keys(writer: gguf.GGUFWriter, sizes: Sizes, *, splits_kv_b: bool) -> None:
    config = sizes.config
    head = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    latent, value = config["kv_lora_rank"], config["v_head_dim"]
    if splits_kv_b:
        writer.kv_data[0][f"{writer.arch}.attention.head_count_kv"].value = 1
        writer.add_key_length(latent + config["qk_rope_head_dim"])
        writer.add_value_length(latent)
        writer.add_key_length_mla(head)
        writer.add_value_length_mla(value)
    else:
        writer.add_key_length(head)
        writer.add_value_length(value)
    writer.add_rope_dimension_count(config["qk_rope_head_dim"])
    writer.add_kv_lora_rank(latent)
    if config.get("q_lora_rank") is not None:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    functions = gguf.ExpertGatingFuncType
    is_third = sizes.family == "deepseek_v3"
    writer.add_expert_gating_func(functions.SIGMOID if is_third else functions.SOFTMAX)
    if is_third or config.get("topk_method") != "greedy":
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])


def _write_expert_keys(writer: gguf.GGUFWriter, sizes: Sizes) -> None:
    count = sizes.first("n_routed_experts", "num_experts", "num_local_experts")
    if count is None:
        return
    writer.add_expert_count(count)
    writer.add_expert_used_count(sizes.config["num_experts_per_tok"])
    inner = sizes.first("moe_intermediate_size")
    if sizes.family == "gpt_oss":
        inner = sizes.config["intermediate_size"]
    if further := sizes.first("nextn_predict_layers"):
        writer.add_nextn_predict_layers(further)
    if inner is not None:
        writer.add_expert_feed_forward_length(inner)


def _write_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"t{n}" for n in range(3, size))])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([2, 3, 3] + [1] * (size - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
