"""What a model is: one of ours, or one that transformers' own layers run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airllm_rs import families
from airllm_rs.checkpoint.packed import check_quantization
from airllm_rs.errors import UnsupportedModelError
from airllm_rs.families import FAMILIES, read_config
from airllm_rs.families.bridged import BridgedConfig, BridgedFamily

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.config import ModelConfig
    from airllm_rs.families import Family
    from airllm_rs.families.validation import NamedWeights

log = logging.getLogger(__name__)


def read_any_config(
    raw: Mapping[str, object], overrides: Mapping[str, object] | None = None
) -> ModelConfig:
    """Return the configuration in the contents of a config.json, native or not.

    Raises:
        UnsupportedModelError: if neither we nor the installed transformers know the model, or the
            weights are quantised in a way that cannot be read.
        ConfigError: if the file, or an override, makes no sense.
    """
    merged = {**raw, **(overrides or {})}
    model_type = merged.get("model_type")
    if not isinstance(model_type, str) or model_type in FAMILIES:
        return read_config(raw, overrides)
    check_quantization(merged)
    log.debug("model_type %r is not native: asking transformers what it is", model_type)
    from airllm_rs.models.bridge import bridged_config

    return bridged_config(raw, overrides)


def understand(
    config: ModelConfig, files: NamedWeights, compute_dtype: str
) -> tuple[ModelConfig, Family, list[str]]:
    """Find out what the tensors of a checkpoint are, and check that they fit.

    Args:
        config: What `read_any_config` returned.
        files: The checkpoint.
        compute_dtype: Of the arithmetic, ``"BF16"`` or ``"F32"``.

    Returns:
        The configuration, completed; the family; tensors that are no part of what runs.

    Raises:
        CheckpointError: naming tensors that are missing, or one of a wrong shape.
        UnsupportedModelError: naming a tensor whose dtype cannot be computed with, or the part of
            the model that was not found.
    """
    if not isinstance(config, BridgedConfig):
        return families.understand(config, files)
    from airllm_rs.models.bridge import bridge
    from airllm_rs.weights.dtypes import TORCH_DTYPES

    found = bridge(config, files, TORCH_DTYPES[compute_dtype])
    assert found.family is not None
    log.info(
        "%s runs through transformers' own layers (%s)",
        found.model_type,
        "chunks of a prompt one after the other: " + found.family.why_by_chunk
        if found.family.why_by_chunk
        else "layer by layer",
    )
    if found.family.left_out:
        log.info(
            "%d tensors are left out, such as %s: only the text part runs",
            len(found.family.left_out),
            found.family.left_out[0],
        )
    return found, found.family, [*found.family.unused]


def refuse_bridged(config: ModelConfig, what: str, instead: str) -> None:
    """Raise `UnsupportedModelError` if ``what`` is asked for a model that is not native."""
    if isinstance(config, BridgedConfig):
        raise UnsupportedModelError(
            f"{what} is for native architectures, and {config.model_type} runs through "
            f"transformers' own layers: {instead}"
        )


def runs_layer_by_layer(family: Family) -> bool:
    """Tell whether several chunks of a prompt can pass a layer before the next one is read."""
    return not (isinstance(family, BridgedFamily) and family.why_by_chunk)
