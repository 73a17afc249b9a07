"""The module tree of a model of transformers, on meta, and the parts of it that matter here."""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from airllm_rs.config import Keys, token_ids
from airllm_rs.errors import ConfigError, UnknownModelError, UnsupportedModelError
from airllm_rs.families.bridged import BridgedConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# How weights are packed is the checkpoint's matter; code that comes with it is never run.
_NOT_OURS = ("quantization_config", "compression_config", "auto_map", "model_type")


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A model of transformers on meta, and where its parts are."""

    model: PreTrainedModel
    decoder: nn.Module
    """What has the layers: the model below the head, of a multimodal one the text part."""
    stack: str
    """Path of the list of decoder layers."""
    table: nn.Module
    head: nn.Module
    is_multimodal: bool
    """Whether the model has other parts too, which do not run."""
    is_part: bool = False
    """Whether the checkpoint has other parts too, which the model has not."""

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""
        found = self.model.get_submodule(self.stack)
        assert isinstance(found, nn.ModuleList)
        return found

    def path_of(self, module: nn.Module) -> str:
        """Return the path of a module of the model."""
        paths = (str(path) for path, part in self.model.named_modules() if part is module)
        return next(paths)


def bridged_config(
    raw: Mapping[str, object], overrides: Mapping[str, object] | None = None
) -> BridgedConfig:
    """Return what transformers makes of a config.json.

    Raises:
        UnsupportedModelError: if transformers does not know the model, or not as one of language.
        ConfigError: if transformers does not accept the file.
    """
    merged = {**raw, **(overrides or {})}
    config = _parsed(merged)
    for key in overrides or {}:
        # whatever is given becomes an attribute: what the class has itself is what it reads
        if key not in raw and not hasattr(type(config)(), key):
            raise ConfigError(
                f"config_overrides: {key!r} is not read by transformers' {type(config).__name__}"
            )
    _class_of(config)
    text = config.get_text_config(decoder=True)

    def number(*names: str, default: int = 1) -> int:
        values = (getattr(text, name, None) for name in names)
        found = next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), default)
        return max(found, 1)

    hidden = number("hidden_size")
    heads = number("num_attention_heads")
    inner = getattr(text, "intermediate_size", None)
    listed = [size for size in inner if isinstance(size, int)] if isinstance(inner, list) else []
    return BridgedConfig(
        model_type=str(merged["model_type"]),
        hidden_size=hidden,
        intermediate_size=max(
            listed or [number("intermediate_size", "ffn_dim", "n_inner", default=4 * hidden)]
        ),
        num_hidden_layers=number("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=number("num_key_value_heads", default=heads),
        head_dim=number("head_dim", default=max(hidden // heads, 1)),
        vocab_size=number("vocab_size"),
        rms_norm_eps=1e-6,
        hidden_act="",
        max_position_embeddings=number("max_position_embeddings", "max_seq_len", default=1 << 20),
        rope_parameters={},
        sliding_rope_parameters=None,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
        sliding_window=None,
        layer_types=(),
        dtype=None,
        bos_token_id=_first(getattr(text, "bos_token_id", None)),
        eos_token_ids=token_ids(getattr(text, "eos_token_id", None), "config.json: eos_token_id"),
        pad_token_id=_first(getattr(text, "pad_token_id", None)),
        raw=merged,
        keys=Keys(merged),
    )


def build_skeleton(raw: Mapping[str, object], dtype: torch.dtype) -> Skeleton:
    """Build the model that ``raw``, the contents of a config.json, describes.

    Raises:
        UnsupportedModelError: if transformers does not know it, or it has no decoder layers,
            embedding or head that could be found.
        ConfigError: if transformers does not accept the file.
    """
    config = _parsed(raw)
    model_class = _class_of(config)
    # the class of the text part alone, in some families
    is_part = config.sub_configs.get("text_config") is model_class.config_class
    if is_part:
        config = config.get_text_config(decoder=True)
    with _made_of(raw), torch.device("meta"):
        model = model_class._from_config(config, dtype=dtype).eval()  # type: ignore[no-untyped-call]
    if model.config._attn_implementation is None:
        # attention would see no mask, and tell nobody
        raise UnsupportedModelError(f"{model_class.__name__} has chosen no way to attend")
    model.requires_grad_(requires_grad=False)
    decoder = model.get_decoder()
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    stack = _stack(model, decoder)
    if stack is None or table is None or head is None:
        lacks = "decoder layers" if stack is None else "embedding" if table is None else "head"
        raise UnsupportedModelError(
            f"model_type {raw['model_type']!r}: no {lacks} found in {model_class.__name__}"
        )
    return Skeleton(
        model,
        decoder,
        stack,
        table,
        head,
        is_multimodal=config.get_text_config() is not config,
        is_part=is_part,
    )


def _stack(model: nn.Module, decoder: nn.Module) -> str | None:
    """Return the path of the list of modules that has most parameters and lies in no other."""
    inside = {id(module) for module in decoder.modules()}
    outer: dict[str, int] = {}
    for path, module in model.named_modules():
        if id(module) not in inside or not isinstance(module, nn.ModuleList) or not len(module):
            continue
        if not any(path.startswith(f"{other}.") for other in outer):
            outer[path] = sum(parameter.numel() for parameter in module.parameters())
    return max(outer, key=lambda path: outer[path], default=None)


def _parsed(raw: Mapping[str, object]) -> PreTrainedConfig:
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UnknownModelError(_unknown(raw))
    rest = {key: value for key, value in raw.items() if key not in _NOT_OURS}
    with _made_of(raw):
        # infinities, which JSON has no word for
        spelled = PreTrainedConfig._decode_special_floats(rest)
        return CONFIG_MAPPING[model_type].from_dict(spelled)


def _class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING):
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found  # type: ignore[return-value]
    raise UnsupportedModelError(
        f"model_type {config.model_type!r} is known to transformers, but not as a causal "
        "language model"
    )


def _unknown(raw: Mapping[str, object]) -> str:
    known = {**MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, **MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    model_type = raw.get("model_type")
    listed = raw.get("architectures")
    what = f"model_type {model_type!r}"
    if isinstance(listed, list) and listed:
        what += f" ({listed[0]})"
    near = [name for name, made in known.items() if isinstance(listed, list) and made in listed]
    near = near or difflib.get_close_matches(str(model_type), known, n=3, cutoff=0.7)
    nearest = f"; nearest that are: {', '.join(near)}" if near else ""
    remote = (
        "; the code that comes with the checkpoint (auto_map in config.json) is never executed"
        if raw.get("auto_map")
        else ""
    )
    return f"{what} is known neither here nor to the installed transformers{nearest}{remote}"


@contextmanager
def _made_of(raw: Mapping[str, object]) -> Iterator[None]:
    """Say what transformers does not accept as an error of config.json."""
    try:
        yield
    except (UnsupportedModelError, ConfigError):
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"config.json: transformers makes no {raw.get('model_type')!r} of it: {line}"
        ) from error


def _first(value: object) -> int | None:
    ids = value if isinstance(value, list) else [value]
    return next((v for v in ids if isinstance(v, int) and not isinstance(v, bool)), None)
