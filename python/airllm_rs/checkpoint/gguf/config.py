"""The config.json that a GGUF file's metadata and tensors amount to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures import ARCHITECTURES, Model
from airllm_rs.checkpoint.gguf.facts import Facts
from airllm_rs.checkpoint.gguf.metadata import Metadata
from airllm_rs.checkpoint.gguf.names import (
    EMBEDDING,
    HEAD,
    NORM,
    ROPE_FACTORS,
    Match,
    Part,
    match_tensors,
)
from airllm_rs.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable

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


@dataclass(frozen=True)
class Description:
    """The checkpoint that a GGUF file was made from, without its weights."""

    config: dict[str, object]
    generation_config: dict[str, object]
    tensors: list[Match]
    head_dim: int


def describe(
    source: Source, vector: Callable[[str], npt.NDArray[np.float32] | None]
) -> Description:
    """Return what config.json and generation_config.json say, and the tensors.

    Args:
        source: The file.
        vector: Returns the contents of a small tensor; None if there is none of that name.

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
        if key not in architecture.reads:
            metadata.require_neutral(key, neutral)
    model = architecture.describe(Facts(path, metadata, source.tensors, vector))
    special = _special_tokens(source)
    config: dict[str, object] = {
        "architectures": [model.model_class],
        "model_type": model.model_type,
        "hidden_size": model.shape.hidden,
        "intermediate_size": model.shape.inner,
        "num_hidden_layers": model.shape.layers,
        "num_attention_heads": model.shape.heads,
        "num_key_value_heads": model.shape.kv_heads,
        "head_dim": model.shape.head_dim,
        "vocab_size": model.shape.vocab,
        "hidden_act": "silu",
        "rms_norm_eps": metadata.required_number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": metadata.required_count("context_length"),
        "tie_word_embeddings": HEAD not in source.tensors,
        "attention_bias": False,
        "mlp_bias": False,
        **model.keys,
        **special,
        "dtype": "bfloat16",
    }
    tensors = match_tensors(
        path,
        source.tensors,
        _parts(model, has_head=HEAD in source.tensors),
        layers=model.shape.layers,
        others=model.others | {ROPE_FACTORS},
    )
    generation = {key: value for key, value in special.items() if value is not None}
    return Description(config, generation, tensors, model.shape.head_dim)


def _special_tokens(source: Source) -> dict[str, object]:
    tokens = Metadata(source.path, source.metadata, "tokenizer.ggml.")
    ends = [tokens.token_id(f"{kind}_token_id") for kind in ("eos", "eot", "eom")]
    end_ids = list(dict.fromkeys(token for token in ends if token is not None))
    return {
        "bos_token_id": tokens.token_id("bos_token_id"),
        "eos_token_id": end_ids[0] if len(end_ids) == 1 else end_ids or None,
        "pad_token_id": tokens.token_id("padding_token_id"),
    }


def _parts(model: Model, *, has_head: bool) -> list[Part]:
    """Return the tensors of a model under their whole names, in order of use."""
    shape, names = model.shape, model.names
    table = (shape.vocab, shape.hidden)
    parts = [Part(EMBEDDING, names.embedding, table)]
    for index in range(shape.layers):
        prefix = names.layer.format(index)
        parts += [
            part._replace(theirs=f"blk.{index}.{part.theirs}", ours=prefix + part.ours)
            for part in model.layer(index)
        ]
    parts.append(Part(NORM, names.norm, (shape.hidden,), shift=model.norm_shift))
    if has_head:
        parts.append(Part(HEAD, names.head, table))
    return parts
