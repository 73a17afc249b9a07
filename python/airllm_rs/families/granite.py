"""Granite: Llama with four numbers that embeddings, scores, branches and logits are scaled by."""

from __future__ import annotations

from dataclasses import replace

from airllm_rs.families import llama
from airllm_rs.families.family import Family

MULTIPLIERS = (
    "embedding_multiplier",
    "attention_multiplier",
    "residual_multiplier",
    "logits_scaling",
)

FAMILY = Family(
    "granite",
    llama.decoder,
    replace(
        llama.FAMILY.rules,
        defaults={**llama.FAMILY.rules.defaults, **dict.fromkeys(MULTIPLIERS, 1.0)},
        own=frozenset(MULTIPLIERS),
    ),
)
