"""The module tree as PEFT meets it: shapes, dtypes and devices are true before anything is read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import nn

from airllm_rs.families import read_config
from airllm_rs.layers.linear import Linear
from airllm_rs.models import build_model
from loading import load
from tiny import oracle, prompt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Adapter(nn.Module):
    """What LoRA does: a wrapper that takes device and dtype from the layer it wraps."""

    def __init__(self, base: Linear | nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        weight = base.weight
        generator = torch.Generator().manual_seed(base.out_features)
        down = torch.randn(4, base.in_features, generator=generator) / 8
        up = torch.randn(base.out_features, 4, generator=generator) / 8
        self.down = nn.Parameter(down.to(weight.device, weight.dtype))
        self.up = nn.Parameter(up.to(weight.device, weight.dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base: torch.Tensor = self.base_layer(x)
        return base + x @ self.down.T @ self.up.T


def test_a_streamed_weight_is_a_placeholder(tiny_checkpoint: Callable[..., Path]) -> None:
    with load(tiny_checkpoint("llama"), "streamed") as model:
        for module in model.modules():
            if isinstance(module, Linear):
                assert module.weight.shape == (module.out_features, module.in_features)
                assert module.weight.device == model.device
                assert module.weight.dtype == model.dtype
                assert module.weight.untyped_storage().nbytes() == 4


def test_adapters_train_on_streamed_weights(tiny_checkpoint: Callable[..., Path]) -> None:
    path = tiny_checkpoint("llama")
    ids = prompt(9)
    gradients: list[list[torch.Tensor]] = []
    with load(path, "streamed") as ours:
        for model in (oracle(path), ours):
            model.requires_grad_(requires_grad=False)
            adapters = []
            for layer in model.get_submodule("model.layers").children():
                for name in ("self_attn.q_proj", "mlp.down_proj"):
                    adapter = Adapter(layer.get_submodule(name))  # type: ignore[arg-type]
                    layer.set_submodule(name, adapter)
                    adapters.append(adapter)
            model(ids, use_cache=False).logits.square().mean().backward()
            gradients.append([])
            for adapter in adapters:
                for parameter in (adapter.down, adapter.up):
                    assert parameter.grad is not None
                    gradients[-1].append(parameter.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-3, rtol=1e-3)


def test_a_tree_of_80_layers_takes_no_memory_and_little_time() -> None:
    config = read_config(
        {
            "model_type": "llama",
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
        }
    )
    started = time.process_time()
    tree = build_model(config)
    # 0.05 s on a quiet machine; a mistake that touches weights would take minutes
    assert time.process_time() - started < 5
    assert {parameter.device.type for parameter in tree.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in tree.parameters()) > 70e9
