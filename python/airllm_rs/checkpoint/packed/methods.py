"""What ``quantization_config`` of config.json announces, and whether it can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airllm_rs.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FORMATS = (
    "dense",
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
)


def quantization_of(config: Mapping[str, object]) -> dict[str, object]:
    """Return ``quantization_config``, empty without one.

    Some checkpoints of compressed-tensors call it ``compression_config``.
    """
    for key in ("quantization_config", "compression_config"):
        found = config.get(key)
        if isinstance(found, dict):
            return found
    return {}


def method_of(config: Mapping[str, object]) -> str | None:
    """Return the name of the method that a checkpoint is quantised by, None if it does not say."""
    settings = quantization_of(config)
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return "bitsandbytes"
    return method if isinstance(method, str) else None


def check_quantization(config: Mapping[str, object]) -> None:
    """Refuse what cannot be read before any of it is downloaded.

    Raises:
        UnsupportedModelError: naming the method or setting, and what is supported.
    """
    announced = config.get("quantization_config")
    if announced is None and "compression_config" not in config:
        return
    settings = quantization_of(config)
    method = method_of(config)
    check = _METHODS.get(method or "")
    if check is None:
        named = method or "quantization_config in config.json, without a quant_method"
        raise UnsupportedModelError(
            f"the weights are quantised ({named}), which cannot be read; "
            f"can be: {', '.join(_METHODS)}; or use the original checkpoint"
        )
    check(settings)


def _anything(settings: Mapping[str, object]) -> None:
    """Accept: what the tensors are is seen when they are opened."""
    del settings


def _gptq(settings: Mapping[str, object]) -> None:
    _require("GPTQ", settings, "bits", (4, 8))
    for key in ("checkpoint_format", "format"):
        _require("GPTQ", settings, key, ("gptq", "gptq_v2"))


def _awq(settings: Mapping[str, object]) -> None:
    key = "w_bit" if "w_bit" in settings else "bits"
    _require("AWQ", settings, key, (4,))
    version = settings.get("version")
    if version is not None and str(version).lower() != "gemm":
        raise UnsupportedModelError(f"AWQ with version {version!r} cannot be read; can be: 'gemm'")


def _auto_round(settings: Mapping[str, object]) -> None:
    packing = packing_of(settings)
    if packing == "awq":
        _awq({**settings, "version": None})
    elif packing is not None:
        _require("auto-round", settings, "bits", (4, 8))
    else:
        named = settings.get("packing_format", settings.get("backend"))
        raise UnsupportedModelError(
            f"auto-round with packing_format {named!r} cannot be read; can be: "
            f"{', '.join(map(repr, _PACKINGS))}"
        )


# Of auto-round, and how GPTQ names what they do: two store zero points as they are.
_PACKINGS = {
    "auto_round:auto_gptq": "gptq",
    "auto_round:gptq": "gptq",
    "auto_round:gptqmodel": "gptq_v2",
    "auto_round": "gptq_v2",
    "auto_round:auto_awq": "awq",
    "auto_round:awq": "awq",
}


def packing_of(settings: Mapping[str, object]) -> str | None:
    """Return ``gptq``, ``gptq_v2`` or ``awq``: whose packing it is; None if another's.

    Args:
        settings: As ``quantization_config`` has them. The tensors tell GPTQ's from AWQ's, but not
            GPTQ's versions, whose zero points are one apart.
    """
    if settings.get("quant_method") != "auto-round":
        is_v2 = settings.get("checkpoint_format", settings.get("format")) == "gptq_v2"
        return "gptq_v2" if is_v2 else "gptq"
    named = settings.get("packing_format", settings.get("backend", "auto"))
    if named in ("auto", None):
        return "gptq"
    return _PACKINGS.get(named) if isinstance(named, str) else None


def _compressed_tensors(settings: Mapping[str, object]) -> None:
    _require("compressed-tensors", settings, "format", _FORMATS)
    sparsity = settings.get("sparsity_config")
    if isinstance(sparsity, dict) and sparsity:
        _require("compressed-tensors with sparsity", sparsity, "format", ("dense",))
    if settings.get("transform_config"):
        raise UnsupportedModelError(
            "compressed-tensors with a transform_config cannot be read: activations would have to "
            "be rotated; use a checkpoint without one"
        )
    groups = settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            _require("compressed-tensors", weights, "num_bits", (4, 8))


def _require(
    method: str, settings: Mapping[str, object], key: str, known: tuple[object, ...]
) -> None:
    found = settings.get(key)
    if found is not None and found not in known:
        listed = ", ".join(map(repr, known))
        raise UnsupportedModelError(
            f"{method} with {key} {found!r} cannot be read; can be: {listed}"
        )


_METHODS: dict[str, Callable[[Mapping[str, object]], None]] = {
    "fp8": _anything,
    "fbgemm_fp8": _anything,
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "compressed-tensors": _compressed_tensors,
    "bitsandbytes": _anything,
    "mxfp4": _anything,
    "modelopt": _anything,
}
