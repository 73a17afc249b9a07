"""Buffers that no checkpoint has: computed as the model computes them when it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compute_buffers(model: PreTrainedModel) -> None:
    """Give every buffer that is not in ``state_dict`` its values, in memory; parameters stay.

    It is transformers' own way for models that are made on meta: each module fills its buffers in
    ``_init_weights``, which passes over whatever is marked as loaded.
    """
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True
    stored = model.state_dict(keep_vars=True).keys()
    for path, module in model.named_modules():
        local = [
            name
            for name, buffer in module.named_buffers(recurse=False)
            if (f"{path}.{name}" if path else name) not in stored and buffer.device.type == "meta"
        ]
        for name in local:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
    for module in model.modules():
        # a buffer may be filled by a module further out
        module._is_hf_initialized = False  # type: ignore[assignment]
    model.initialize_weights()  # type: ignore[no-untyped-call]
