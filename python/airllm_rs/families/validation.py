"""A checkpoint against its family: what is missing or wrong shows before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from airllm_rs.checkpoint.stored import whole_name
from airllm_rs.errors import CheckpointError, UnsupportedModelError
from airllm_rs.families.shape_keys import keys_behind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airllm_rs.checkpoint import StoredWeight
    from airllm_rs.config import ModelConfig
    from airllm_rs.families.family import Family, TensorSpec

DTYPES = ("BF16", "F16", "F32", "F64")
"""Dtypes of weights that can be computed with, converted or as they are."""

_SHOWN = 3


class NamedWeights(Protocol):
    """What is validated: weights that can be listed and looked up."""

    def weight_names(self) -> list[str]:
        """Return the names of all weights."""

    def stored(self, name: str) -> StoredWeight:
        """Return how a weight is stored."""


def validate(config: ModelConfig, family: Family, files: NamedWeights) -> list[str]:
    """Check that the checkpoint has all tensors of its family, and return those it has beyond.

    Raises:
        CheckpointError: naming tensors that are missing, or one of a wrong shape and the keys of
            config.json that it contradicts.
        UnsupportedModelError: naming a tensor whose dtype cannot be computed with.
    """
    specs = {spec.name: spec for layer in family.layers(config) for spec in layer.tensors}
    names = files.weight_names()
    present = set(names)
    missing = [name for name in specs if whole_name(name) not in present]
    used = {whole_name(name) for name in specs}
    extra = [name for name in names if name not in used]
    unexpected = [name for name in extra if not family.is_ignorable(name, config)]
    if missing:
        beside = f" (it has {some(unexpected)} instead)" if unexpected else ""
        raise CheckpointError(f"the checkpoint lacks {some(missing)}{beside}")
    for spec in specs.values():
        found = files.stored(spec.name)
        if found.shape != spec.shape:
            raise CheckpointError(_contradiction(config, family, spec, found))
        if found.layout is not None or found.dtype not in DTYPES:
            _check(spec, found)
    return unexpected


def some(names: Iterable[str]) -> str:
    """Return the first of some names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _contradiction(
    config: ModelConfig, family: Family, spec: TensorSpec, found: StoredWeight
) -> str:
    message = f"{spec.name} has shape {list(found.shape)}, expected {list(spec.shape)}"
    if len(found.shape) != len(spec.shape):
        return f"{message} from config.json"
    sizes = [
        f"{want} from {', '.join(keys)}"
        for axis, (have, want) in enumerate(zip(found.shape, spec.shape, strict=True))
        if have != want and (keys := keys_behind(config, family, spec.name, axis))
    ]
    return f"{message} from config.json" + (f" ({'; '.join(sizes)})" if sizes else "")


def _check(spec: TensorSpec, found: StoredWeight) -> None:
    if found.layout is None:
        raise UnsupportedModelError(
            f"{spec.name} is stored as {found.dtype}, which cannot be computed with; "
            f"can be: {', '.join(DTYPES)}"
        )
    if len(spec.shape) > 2:
        raise UnsupportedModelError(
            f"{spec.name} is packed as {found.dtype}; only matrices and vectors can be"
        )
