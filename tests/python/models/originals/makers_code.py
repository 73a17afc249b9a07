"""Runs the makers' own code on the same checkpoints, where ``deep-training`` is installed.

Its parts are imported one by one, without its trainers; what it needs of older versions of
transformers is put back. Nothing of it is kept here.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from models.originals.cases import CASES, TOKENS, padded, tokens, weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

ROOT = "deep_training"
MODELS = f"{ROOT}.nlp.models"

# case -> folder, configuration class, model class
CODE = {
    "chatglm2": ("chatglm2", "ChatGLMConfig", "ChatGLMForConditionalGeneration"),
    "chatglm3": ("chatglm3", "ChatGLMConfig", "ChatGLMForConditionalGeneration"),
    "chatglm, glm-4-9b": ("chatglm3", "ChatGLMConfig", "ChatGLMForConditionalGeneration"),
    "qwen": ("qwen", "QWenConfig", "QWenLMHeadModel"),
    "qwen, past its length": ("qwen", "QWenConfig", "QWenLMHeadModel"),
    "qwen, no ntk, no logn": ("qwen", "QWenConfig", "QWenLMHeadModel"),
    "baichuan-7b": ("baichuan_7b", "BaiChuanConfig", "BaiChuanForCausalLM"),
    "baichuan2-7b": ("baichuan2_7b", "BaichuanConfig", "BaichuanForCausalLM"),
    "baichuan-13b": ("baichuan_13b", "BaichuanConfig", "BaichuanForCausalLM"),
    "baichuan-13b, 6 heads": ("baichuan_13b", "BaichuanConfig", "BaichuanForCausalLM"),
    "baichuan2-13b": ("baichuan2_13b", "BaichuanConfig", "BaichuanForCausalLM"),
    "baichuan2-13b, 6 heads": ("baichuan2_13b", "BaichuanConfig", "BaichuanForCausalLM"),
    "internlm": ("internlm", "InternLMConfig", "InternLMForCausalLM"),
    "internlm, no bias": ("internlm", "InternLMConfig", "InternLMForCausalLM"),
    "internlm2": ("internlm2", "InternLM2Config", "InternLM2ForCausalLM"),
    "internlm2, biases": ("internlm2", "InternLM2Config", "InternLM2ForCausalLM"),
    "internlm2, dynamic": ("internlm2", "InternLM2Config", "InternLM2ForCausalLM"),
    "internlm2, dynamic, factor 1": ("internlm2", "InternLM2Config", "InternLM2ForCausalLM"),
    "Yi": ("yi", "YiConfig", "YiForCausalLM"),
}
"""The cases that the package has code of: not InternLM 1 with a dynamic base, not InternLM 3."""


def takes_padding(name: str) -> bool:
    """Tell whether the code of a case has padding: that of the first Baichuan-13B has not."""
    return CODE[name][0] != "baichuan_13b"


def is_installed() -> bool:
    """Tell whether the makers' code can be run here."""
    return importlib.util.find_spec(ROOT) is not None


def _module(name: str, **attributes: object) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module


def _prepare() -> None:
    """Make the parts importable without their packages, and put back what transformers dropped."""
    if f"{MODELS}.transformer_base" in sys.modules:
        return
    spec = importlib.util.find_spec(ROOT)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    for name in ("", "nlp", "nlp/models", "nlp/utils"):
        dotted = ".".join((ROOT, *Path(name).parts))
        _module(dotted, __path__=[str(root / name)])
    _module(f"{MODELS}.transformer_base", TransformerBase=type("TransformerBase", (), {}))
    _module(f"{ROOT}.nlp.utils.torch_utils", skip_init=lambda make, *a, **k: make(*a, **k))
    _module("xformers", ops=None)
    _module("transformers.deepspeed", is_deepspeed_zero3_enabled=lambda: False)
    no_heads = staticmethod(lambda mask, layers, *rest: [None] * layers)
    transformers.PreTrainedModel.get_head_mask = no_heads  # type: ignore[attr-defined]
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _module_of(folder: str, start: str) -> types.ModuleType:
    spec = importlib.util.find_spec(f"{MODELS}.{folder}")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = Path(spec.submodule_search_locations[0]).glob(f"{start}_*.py")
    return importlib.import_module(f"{MODELS}.{folder}.{next(iter(found)).stem}")


def load(name: str, dtype: torch.dtype = torch.float32) -> Any:  # noqa: ANN401 - their class
    """Return the makers' model of a case, with its weights."""
    _prepare()
    folder, config_name, model_name = CODE[name]
    settings = copy.deepcopy(dict(CASES[name].config))  # transformers adds to what is inside
    for unwanted in ("auto_map", "architectures", "transformers_version", "model_type"):
        settings.pop(unwanted, None)
    if folder == "qwen":
        settings |= {
            "use_flash_attn": False,
            "fp32": dtype == torch.float32,
            "bf16": dtype == torch.bfloat16,
        }
    config = getattr(_module_of(folder, "configuration"), config_name)(**settings)
    config.rope_scaling = copy.deepcopy(CASES[name].config.get("rope_scaling"))  # as it was
    config.use_cache = True
    config.max_length = 20
    config.torch_dtype = dtype
    make = getattr(_module_of(folder, "modeling"), model_name)
    model = make(config, empty_init=False) if folder == "chatglm3" else make(config)
    state = {key: torch.from_numpy(tensor) for key, tensor in weights(name).items()}
    state = {key: tensor for key, tensor in state.items() if not key.endswith("inv_freq")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("inv_freq" in key for key in missing), missing
    return model.to(dtype).eval()


def logits(
    name: str,
    calls: Sequence[tuple[int, int]] = ((0, TOKENS),),
    *,
    is_padded: bool = False,
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.float64]:
    """Return what the makers' code makes of `tokens`, given in so many ``calls``."""
    folder = CODE[name][0]
    model = load(name, dtype)
    if folder == "qwen":
        # its faster path drops the mask of cached steps
        _module_of(folder, "modeling").SUPPORT_TORCH2 = False  # type: ignore[attr-defined]
    ids, mask = torch.from_numpy(tokens()), torch.from_numpy(padded())
    positions = torch.arange(TOKENS).expand(2, -1)
    parts, past = [], None
    for start, stop in calls:
        given: dict[str, object] = {"past_key_values": past, "use_cache": True}
        if is_padded:
            given["attention_mask"] = mask[:, :stop]
        if folder.startswith(("chatglm", "internlm", "yi")):
            given["position_ids"] = positions[:, start:stop]
        with torch.no_grad():
            out = model(input_ids=ids[:, start:stop], **given)
        past = out.past_key_values
        parts.append(out.logits)
    stacked: NDArray[np.float64] = torch.cat(parts, dim=1).double().numpy()
    return stacked
