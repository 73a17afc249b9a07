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
    _require("GPTQ", settings, "checkpoint_format", ("gptq", "gptq_v2"))


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
    elif packing == "gptq":
        _require("auto-round", settings, "bits", (4, 8))
    else:
        named = settings.get("packing_format", settings.get("backend"))
        raise UnsupportedModelError(
            f"auto-round with packing_format {named!r} cannot be read; can be: "
            "'auto_round:auto_gptq', 'auto_round:auto_awq'"
        )


def packing_of(settings: Mapping[str, object]) -> str | None:
    """Return ``"gptq"`` or ``"awq"``: whose packing auto-round has used, None if another's."""
    named = str(settings.get("packing_format", settings.get("backend", "")))
    return next((kind for kind in ("awq", "gptq") if kind in named), None)


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
