"""The config.json that a GGUF file's metadata and tensors amount to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf import names
from airllm_rs.checkpoint.gguf.metadata import Metadata
from airllm_rs.checkpoint.gguf.names import Match, match_tensors
from airllm_rs.checkpoint.gguf.rope import llama3_scaling, rope_scaling
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from airllm_rs.checkpoint.gguf.source import Source

# Keys that would change what is computed, each with the value at which it does not.
_NEUTRAL: dict[str, float] = {
    "expert_count": 0,
    "attention.scale": 0,
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.temperature_scale": 0,
    "attn_logit_softcapping": 0,
    "final_logit_softcapping": 0,
    "embedding_scale": 1,
    "residual_scale": 1,
    "logit_scale": 1,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """What llama.cpp's converter does to the models of one ``general.architecture``."""

    model_type: str
    model_class: str
    is_permuted: bool = False
    """Whether the rows of queries and keys are reordered."""
    qkv_bias: bool = False
    """Whether every model has biases there; otherwise the file's tensors say."""
    qk_norm: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", is_permuted=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", qk_norm=True),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def queries(self) -> int:
        """Rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Rows of the key projection."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Description:
    """The checkpoint that a GGUF file was made from, without its weights."""

    config: dict[str, object]
    generation_config: dict[str, object]
    shape: Shape
    tensors: list[Match]


def describe(source: Source, rope_factors: npt.NDArray[np.float32] | None) -> Description:
    """Return what config.json and generation_config.json say, and the tensors.

    Args:
        source: The file.
        rope_factors: The contents of its ``rope_freqs.weight``, if it has that.

    Raises:
        UnsupportedModelError: if it holds a model that this package does not run, or a part of one.
        CheckpointError: if metadata or tensors are missing, or contradict each other.
    """
    path = source.path
    name = source.metadata.get("general.architecture")
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModelError(
            f"{path}: architecture {name!r} cannot be imported; known: {known}"
        )
    metadata = Metadata(path, source.metadata, f"{name}.")
    for key, neutral in _NEUTRAL.items():
        metadata.require_neutral(key, neutral)
    shape = _shape(source, metadata)
    has = {key: f"blk.0.{key}.bias" in source.tensors for key in (names.Q, names.OUTPUT_BIAS)}
    attention_bias = has[names.Q] and not architecture.qkv_bias
    mlp_bias = f"blk.0.{names.MLP_BIASES[0]}.bias" in source.tensors
    biases = [
        *(names.QKV_BIASES if attention_bias or architecture.qkv_bias else ()),
        *((names.OUTPUT_BIAS,) if attention_bias else ()),
        *(names.MLP_BIASES if mlp_bias and architecture.is_permuted else ()),
    ]
    tensors = match_tensors(
        path,
        source.tensors,
        shape,
        biases=biases,
        qk_norm=architecture.qk_norm,
        is_permuted=architecture.is_permuted,
    )
    tokens = Metadata(path, source.metadata, "tokenizer.ggml.")
    ends = [tokens.token_id(f"{kind}_token_id") for kind in ("eos", "eot", "eom")]
    end_ids = list(dict.fromkeys(token for token in ends if token is not None))
    special: dict[str, object] = {
        "bos_token_id": tokens.token_id("bos_token_id"),
        "eos_token_id": end_ids[0] if len(end_ids) == 1 else end_ids or None,
        "pad_token_id": tokens.token_id("padding_token_id"),
    }
    config: dict[str, object] = {
        "architectures": [architecture.model_class],
        "model_type": architecture.model_type,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "hidden_act": "silu",
        "rms_norm_eps": metadata.required_number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": metadata.required_count("context_length"),
        "tie_word_embeddings": names.HEAD not in source.tensors,
        "attention_bias": attention_bias,
        "mlp_bias": mlp_bias,
        **_rope(source, metadata, shape, rope_factors),
        **_window(source, metadata, architecture, has_biases=attention_bias or mlp_bias),
        **special,
        "dtype": "bfloat16",
    }
    generation = {key: value for key, value in special.items() if value is not None}
    return Description(config, generation, shape, tensors)


def _shape(source: Source, metadata: Metadata) -> Shape:
    heads = metadata.required_count("attention.head_count")
    hidden = metadata.required_count("embedding_length")
    head_dim = metadata.count("attention.key_length")
    if head_dim is None and hidden % heads:
        raise CheckpointError(
            f"{source.path}: embedding_length ({hidden}) is not a multiple of "
            f"attention.head_count ({heads}), and there is no attention.key_length"
        )
    head_dim = head_dim or hidden // heads
    if head_dim % 2:
        raise UnsupportedModelError(f"{source.path}: heads of {head_dim}, which is odd")
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := metadata.count(key)) not in (None, head_dim):
            raise UnsupportedModelError(
                f"{source.path}: {key} is {other} and heads are of {head_dim}: cannot be imported"
            )
    table = source.tensors.get(names.EMBEDDING)
    if table is None:
        raise CheckpointError(f"{source.path} lacks {names.EMBEDDING}")
    layers = metadata.required_count("block_count")
    if layers > len(source.tensors):
        raise CheckpointError(
            f"{source.path}: block_count is {layers}, and there are {len(source.tensors)} tensors"
        )
    return Shape(
        layers=layers,
        hidden=hidden,
        inner=metadata.required_count("feed_forward_length"),
        heads=heads,
        kv_heads=metadata.count("attention.head_count_kv") or heads,
        head_dim=head_dim,
        vocab=table.shape[0],
    )


def _rope(
    source: Source, metadata: Metadata, shape: Shape, factors: npt.NDArray[np.float32] | None
) -> dict[str, object]:
    theta = metadata.number("rope.freq_base") or 10_000.0
    if theta <= 0:
        raise CheckpointError(f"{source.path}: rope.freq_base is {theta}, expected more than 0")
    scaling = rope_scaling(source.path, metadata)
    if factors is not None:
        if factors.shape != (shape.head_dim // 2,):
            raise CheckpointError(
                f"{source.path}: {names.ROPE_FACTORS} has shape {list(factors.shape)}, "
                f"expected [{shape.head_dim // 2}]"
            )
        llama3 = llama3_scaling(source.path, factors, theta)
        if llama3 is not None and scaling is not None:
            raise UnsupportedModelError(
                f"{source.path}: RoPE is scaled twice, by metadata and by {names.ROPE_FACTORS}"
            )
        scaling = llama3 or scaling
    return {"rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": theta}}


def _window(
    source: Source, metadata: Metadata, architecture: Architecture, *, has_biases: bool
) -> dict[str, object]:
    """Mistral's files say that they are Llama's; only Mistral's have a window in every layer."""
    window = metadata.token_id("attention.sliding_window")
    if not window:
        return {} if architecture.is_permuted else {"use_sliding_window": False}
    if architecture.model_type != "llama":
        raise UnsupportedModelError(
            f"{source.path}: a sliding window of {window}, and nothing says in which layers"
        )
    if has_biases:
        raise UnsupportedModelError(
            f"{source.path}: a sliding window and biases, which Mistral has not: cannot be imported"
        )
    return {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": window,
    }
