"""RoPE scaling, from what a GGUF file says about it to what config.json says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from airllm_rs.checkpoint.gguf.names import ROPE_FACTORS
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from airllm_rs.checkpoint.gguf.facts import Facts, Shape
    from airllm_rs.checkpoint.gguf.metadata import Metadata

# Relative; the factors were computed in float32.
_TOLERANCE = 1e-4


def rope_parameters(
    facts: Facts,
    shape: Shape,
    *,
    has_log_multiplier: bool = False,
    is_long: bool = False,
    of_head: bool = True,
) -> dict[str, object]:
    """Return ``rope_parameters``, the key of config.json.

    Args:
        facts: The file.
        shape: The sizes of the model.
        has_log_multiplier: Whether YaRN may scale scores, as DeepSeek's does.
        is_long: Whether the caller reads longrope, its tensors and its factor of attention.
        of_head: Whether the items that turn are a share of each head, and not a part of its own.

    Raises:
        UnsupportedModelError: for a scaling that config.json has no words for.
        CheckpointError: for numbers that make no sense.
    """
    path, metadata = facts.path, facts.metadata
    theta = metadata.number("rope.freq_base") or 10_000.0
    if theta <= 0:
        raise CheckpointError(f"{path}: rope.freq_base is {theta}, expected more than 0")
    if not is_long:
        metadata.require_neutral("rope.scaling.attn_factor", 1)
    scaling = None
    if not is_long or metadata.text("rope.scaling.type", "none") != "longrope":
        scaling = rope_scaling(path, metadata, has_log_multiplier=has_log_multiplier)
    factors = facts.vector(ROPE_FACTORS)
    if factors is not None:
        if factors.shape != (shape.turned // 2,):
            raise CheckpointError(
                f"{path}: {ROPE_FACTORS} has shape {list(factors.shape)}, "
                f"expected [{shape.turned // 2}]"
            )
        llama3 = llama3_scaling(path, factors, theta)
        if llama3 is not None and scaling is not None:
            raise UnsupportedModelError(
                f"{path}: RoPE is scaled twice, by metadata and by {ROPE_FACTORS}"
            )
        scaling = llama3 or scaling
    is_partial = of_head and shape.turned < shape.head_dim
    return {
        "rope_parameters": {
            "rope_type": "default",
            **(scaling or {}),
            "rope_theta": theta,
            **({"partial_rotary_factor": shape.turned / shape.head_dim} if is_partial else {}),
        }
    }


def rope_scaling(
    path: Path, metadata: Metadata, *, has_log_multiplier: bool = False
) -> dict[str, object] | None:
    """Return the scaling that the metadata names, in the words of config.json; None for none.

    Raises:
        UnsupportedModelError: for one that config.json has no words for.
    """
    kind = metadata.text("rope.scaling.type", "none")
    factor = metadata.number("rope.scaling.factor") or metadata.number("rope.scale_linear")
    if kind == "none" and metadata.number("rope.scale_linear") not in (None, 1.0):
        kind = "linear"  # files before August 2023 have no type
    if kind == "none" or (kind == "linear" and factor in (None, 1.0)):
        return None
    if factor is not None and factor <= 0:
        raise UnsupportedModelError(f"{path}: rope.scaling.factor is {factor}")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    original = metadata.count("rope.scaling.original_context_length")
    if kind != "yarn" or factor is None or original is None:
        raise UnsupportedModelError(f"{path}: RoPE scaling {kind!r} cannot be imported")
    for key in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        metadata.require_neutral(f"rope.scaling.{key}", 1)
    found: dict[str, object] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
    }
    if not has_log_multiplier:
        metadata.require_neutral("rope.scaling.yarn_log_multiplier", 0)
    elif multiplier := metadata.number("rope.scaling.yarn_log_multiplier"):
        # the file has a tenth of one of two numbers, which are the same in all published models
        share = round(10 * multiplier, 6)
        found |= {"mscale": share, "mscale_all_dim": share}
    for key in ("beta_fast", "beta_slow"):
        if (value := metadata.number(f"rope.scaling.yarn_{key}")) is not None:
            found[key] = value
    return found


def llama3_scaling(
    path: Path, factors: npt.NDArray[np.float32], theta: float
) -> dict[str, object] | None:
    """Return Llama 3's scaling that divides frequencies by ``factors``; None if all are 1.

    Only the quotients of the three lengths matter, so that ``low_freq_factor`` is 1.

    Args:
        path: The file, for messages.
        factors: The contents of ``rope_freqs.weight``, of shape (D / 2).
        theta: The base of the frequencies.

    Raises:
        UnsupportedModelError: if no such scaling does.
    """
    stored = factors.astype(np.float64)
    if np.array_equal(stored, np.ones_like(stored)):
        return None
    turns = theta ** (-np.arange(len(stored)) / len(stored)) / (2 * np.pi)
    factor = round(float(stored.max()), 4)
    if not np.isfinite(stored).all() or stored.min() < 1:
        raise _no_such_scaling(path)
    with np.errstate(all="ignore"):
        for high, original in _candidates(stored, turns, factor):
            if np.allclose(_factors(turns, factor, high, original), stored, rtol=_TOLERANCE):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": high,
                    "original_max_position_embeddings": original,
                }
    raise _no_such_scaling(path)


def _candidates(
    stored: npt.NDArray[np.float64], turns: npt.NDArray[np.float64], factor: float
) -> Iterator[tuple[float, int]]:
    """Yield ``high_freq_factor`` and the original length: Llama 3's own, then a line's through two.

    Between the two lengths the share that stays unscaled is linear in the frequency.
    """
    yield 4.0, 8192
    between = np.flatnonzero((stored > 1) & (stored < factor * (1 - _TOLERANCE)))
    if len(between) >= 2:
        first, last = between[0], between[-1]
        share = (1 / stored - 1 / factor) / (1 - 1 / factor)
        slope = (share[first] - share[last]) / (turns[first] - turns[last])
        offset = share[first] - slope * turns[first]
        if slope > 0 and offset < 0:
            high = 1 - 1 / offset
            yield round(high, 3), round(slope * (high - 1))


def _factors(
    turns: npt.NDArray[np.float64], factor: float, high: float, original: int
) -> npt.NDArray[np.float64]:
    share = np.clip((original * turns - 1) / (high - 1), 0, 1)
    scaled: npt.NDArray[np.float64] = 1 / ((1 - share) / factor + share)
    return scaled


def _no_such_scaling(path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path}: rope_freqs.weight is no scaling of Llama 3's kind, and cannot be imported"
    )
