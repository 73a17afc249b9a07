"""Eight-bit floats with scales per block, row or tensor: ``weight`` and ``weight_scale_inv``."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.packed.methods import quantization_of
from airllm_rs.checkpoint.packed.tensors import require_dtype
from airllm_rs.checkpoint.stored import Layout, StoredPart, StoredWeight
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airllm_rs.checkpoint.packed.tensors import Tensors
    from airllm_rs.checkpoint.stored import TensorInfo

FLOATS = {"F8_E4M3": False, "F8_E5M2": True}
_SCALES = ("weight_scale_inv", "weight_scale", "scale", "qscale_weight")
# Of activations and of the KV cache: what is computed here is not quantised.
NOT_READ = (
    "input_scale", "input_scale_ub", "activation_scale", "input_global_scale", "qscale_act",
    "input_zero_point", "k_scale", "v_scale",
)  # fmt: skip
_KINDS = {
    "F32": "f32", "F16": "f16", "BF16": "bf16", "F8_E8M0": "e8m0", "U8": "e8m0",
}  # fmt: skip
# As they are met in checkpoints whose configuration does not name them.
_BLOCKS = ((128, 128), (1, 128), (1, 32))


def find(tensors: Tensors, config: Mapping[str, object]) -> dict[str, StoredWeight]:
    """Return the weights that are packed so."""
    blocks = (*_named_blocks(quantization_of(config)), *_BLOCKS)
    found = {}
    beside = tuple(f".{other}" for other in NOT_READ)
    others = NOT_READ if any(name.endswith(beside) for name in tensors.names) else ()
    for name in tensors.names:
        if name.endswith(".weight"):
            info = tensors.info(name)
            if info.dtype in FLOATS and len(info.shape) == 2 and all(info.shape):
                found[name] = _weight(tensors, name, info, blocks, others)
    return found


def no_zero_points(tensors: Tensors, name: str) -> tuple[str, ...]:
    """Return the tensor with the zero points of a weight, if there is one; all of them are zero.

    Raises:
        UnsupportedModelError: if one is not.
    """
    found = tensors.found(f"{name}_zero_point")
    if not all(map(tensors.holds_only_zeros, found)):
        raise UnsupportedModelError(
            f"{name} is of signed numbers with zero points, which cannot be read; can be: without"
        )
    return found


def _named_blocks(settings: Mapping[str, object]) -> Iterator[tuple[int, int]]:
    """Yield the blocks that config.json names, as DeepSeek or as compressed-tensors does it."""
    groups = settings.get("config_groups")
    schemes = groups.values() if isinstance(groups, dict) else ()
    weights = [scheme.get("weights") for scheme in schemes if isinstance(scheme, dict)]
    for found in ({"block_structure": settings.get("weight_block_size")}, *weights):
        if isinstance(found, dict):
            for block in (found.get("block_structure"), [1, found.get("group_size")]):
                if isinstance(block, list) and len(block) == 2:
                    high, wide = block
                    if type(high) is int and type(wide) is int and high > 0 and wide > 0:
                        yield high, wide


def _weight(
    tensors: Tensors,
    name: str,
    q: TensorInfo,
    blocks: tuple[tuple[int, int], ...],
    others: tuple[str, ...],
) -> StoredWeight:
    module = name.removesuffix(".weight")
    for scale_kind in _SCALES:
        scale_name = f"{module}.{scale_kind}"
        if scale_name in tensors:
            break
    else:
        raise CheckpointError(
            f"{name} is of {q.dtype} and lacks its scales: there is no {module}.weight_scale_inv "
            f"and no {module}.weight_scale"
        )
    scale = tensors.info(scale_name)
    require_dtype(scale_name, scale.dtype, *_KINDS)
    block = _block(scale_name, scale.shape, (q.shape[0], q.shape[1]), blocks)
    rows, cols = q.shape
    if block == (rows, cols):
        step, label = 0, "fp8"
    elif block == (1, cols):
        step, label = 1, "fp8-channel"
        scale = scale._replace(shape=(rows, 1))
    else:
        step, label = block[0], f"fp8-{block[0]}x{block[1]}"
    parts = (StoredPart("q", name, q), StoredPart("scale", scale_name, scale, step))
    return StoredWeight(
        name,
        q.shape,
        parts,
        _layout(FLOATS[q.dtype], block, _KINDS[scale.dtype], label),
        # one scale of all is the same for every cut
        row_step=step or 1,
        aside=(
            *no_zero_points(tensors, name),
            *tensors.found(*(f"{module}.{other}" for other in others)),
        ),
    )


@cache
def _layout(is_e5m2: bool, block: tuple[int, int], scale: str, label: str) -> Layout:
    options = {
        "is_e5m2": is_e5m2,
        "block_rows": block[0],
        "block_cols": block[1],
        "scale": scale,
    }
    return Layout("fp8", options, label)


def _block(
    name: str, grid: tuple[int, ...], shape: tuple[int, int], blocks: tuple[tuple[int, int], ...]
) -> tuple[int, int]:
    """Return the rows and columns that share a scale, as the number of scales tells."""
    found = _fitting(grid, shape, blocks)
    if found is not None:
        return found
    named = " or ".join(f"{high}x{wide}" for high, wide in dict.fromkeys(blocks))
    raise CheckpointError(
        f"{name} has shape {list(grid)}, which does not fit a weight of {list(shape)}: expected "
        f"one scale, one per row, or blocks of {named}"
    )


@cache
def _fitting(
    grid: tuple[int, ...], shape: tuple[int, int], blocks: tuple[tuple[int, int], ...]
) -> tuple[int, int] | None:
    rows, cols = shape
    for high, wide in blocks:
        if grid == (-(-rows // high), -(-cols // wide)) and grid != (1, 1):
            return high, wide
    if grid in ((), (1,), (1, 1)):
        return rows, cols
    if grid in ((rows,), (rows, 1)):
        return 1, cols
    return None
