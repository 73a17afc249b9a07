"""The family whose tensors are named most like those of a model that is not known."""

from __future__ import annotations

import re
from difflib import SequenceMatcher, get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from airllm_rs.config import parse_config
from airllm_rs.errors import AirLLMError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airllm_rs.families.family import Family

_SHOWN = 4
# Enough to be read as the config.json of any family; the names of tensors hang on little of it.
_SMALL: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "seq_length": 64,
    "num_experts": 2,
    "n_routed_experts": 2,
    "num_local_experts": 2,
}
# What a model is called tells less than what it is made of.
_NAME_WEIGHT = 0.2
_IN_A_LAYER = re.compile(r"^.*?\.\d+\.")
_NUMBER = re.compile(r"(?<=[.\[])\d+(?=[.\]])")


class Nearest(NamedTuple):
    """A family that runs here, and how much a model is like it."""

    model_type: str
    similarity: float
    """Of the names of tensors, numbers aside: those that both have, of those that either has."""


def nearest_family(
    model_type: str | None, names: Iterable[str], families: Mapping[str, Family]
) -> Nearest | None:
    """Return the family most like a model; None if nothing is alike.

    Args:
        model_type: As config.json has it; decides where no tensor does.
        names: Of its tensors, none where they are not known.
        families: Those that are known.
    """
    found = inner_names(names)
    alike: list[tuple[float, Nearest]] = []
    for known, family in families.items() if found else ():
        theirs = _names_of(family)
        similarity = len(found & theirs) / len(found | theirs)
        if similarity:
            called = SequenceMatcher(a=model_type or "", b=known).ratio()
            alike.append((similarity + _NAME_WEIGHT * called, Nearest(known, similarity)))
    if alike:
        return max(alike)[1]
    close = get_close_matches(model_type or "", families, n=1)
    return Nearest(close[0], 0.0) if close else None


def inner_names(names: Iterable[str]) -> set[str]:
    """Return names without what comes before the number of a layer, other numbers as ``N``."""
    return {_NUMBER.sub("N", _IN_A_LAYER.sub("", name, count=1)) for name in names}


def name_patterns(names: Iterable[str]) -> str:
    """Return the first few names of tensors, numbers as ``N``, for a message."""
    listed = list(dict.fromkeys(_NUMBER.sub("N", name) for name in names))
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _names_of(family: Family) -> set[str]:
    try:
        config = parse_config({**_SMALL, "model_type": family.model_type}, rules=family.rules)
        layers = family.layers(config)
    except AirLLMError:
        return set()
    return inner_names(spec.name for layer in layers for spec in layer.tensors)
