"""Phi-3 and Phi-4; the factors of a long RoPE are tensors of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.architectures.model import (
    Architecture,
    Model,
    fused_attention,
    fused_mlp,
    pre_norm,
)
from airllm_rs.checkpoint.gguf.rope import rope_parameters
from airllm_rs.errors import CheckpointError

if TYPE_CHECKING:
    from airllm_rs.checkpoint.gguf.facts import Facts, Shape

_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


def _phi3(facts: Facts) -> Model:
    shape = facts.shape(is_partial=True)
    original = facts.metadata.count("rope.scaling.original_context_length")
    keys: dict[str, object] = {
        "sliding_window": facts.metadata.token_id("attention.sliding_window") or None,
        **_rope(facts, shape),
    }
    if original is not None:
        keys["original_max_position_embeddings"] = original
    return Model(
        "phi3",
        "Phi3ForCausalLM",
        shape,
        lambda _: pre_norm(
            shape,
            fused_attention(shape, "self_attn.qkv_proj", "self_attn.o_proj"),
            fused_mlp(shape, "mlp.gate_up_proj", "mlp.down_proj"),
        ),
        keys,
        others=frozenset({_LONG, _SHORT}),
    )


def _rope(facts: Facts, shape: Shape) -> dict[str, object]:
    found = rope_parameters(facts, shape, is_long=True)
    factors = {}
    for key, name in (("long_factor", _LONG), ("short_factor", _SHORT)):
        vector = facts.vector(name)
        if vector is None:
            continue
        if vector.shape != (shape.turned // 2,):
            raise CheckpointError(
                f"{facts.path}: {name} has shape {list(vector.shape)}, "
                f"expected [{shape.turned // 2}]"
            )
        # the decimals that people wrote, not their neighbours in float32
        factors[key] = [float(str(factor)) for factor in vector]
    if not factors:
        facts.metadata.require_neutral("rope.scaling.attn_factor", 1)
        return found
    if len(factors) == 1:
        raise CheckpointError(f"{facts.path} has only one of {_LONG} and {_SHORT}")
    parameters = found["rope_parameters"]
    assert isinstance(parameters, dict), "as it is made"
    gain = facts.metadata.number("rope.scaling.attn_factor")
    return {
        "rope_parameters": {
            **parameters,
            "rope_type": "longrope",
            **factors,
            **({} if gain is None else {"attention_factor": gain}),
        }
    }


PHI3 = Architecture(_phi3)
