"""InternLM 1: Llama, with biases on attention in the 7B, and its RoPE under a name of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airllm_rs.config import Keys
from airllm_rs.families import llama
from airllm_rs.families.family import Family

if TYPE_CHECKING:
    from collections.abc import Mapping


def _translate(raw: Mapping[str, object]) -> Mapping[str, object]:
    keys = Keys(raw)
    found = {**raw, "attention_bias": keys.flag("bias", True), "mlp_bias": False}
    rotary = keys.mapping("rotary")
    if rotary:
        kind = "dynamic" if rotary.get("type") == "dynamic" else "default"
        found["rope_parameters"] = {
            "rope_type": kind,
            "rope_theta": rotary.get("base", 10_000.0),
            **({"factor": 1.0} if kind == "dynamic" else {}),
        }
        found.pop("rope_scaling", None)
    return found


FAMILY = Family(
    "internlm",
    llama.decoder,
    replace(llama.FAMILY.rules, translate=_translate, own=frozenset({"bias", "rotary"})),
)
