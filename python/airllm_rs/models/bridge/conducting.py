"""Decoder layers of transformers whose every call passes through one hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Handler = Callable[[int, Callable[..., object], tuple[object, ...], dict[str, object]], object]


class Conductor:
    """Decides what a call of a decoder layer does; by default, that it runs."""

    def __init__(self) -> None:
        self.handler: Handler = run

    def adopt(self, layers: Iterable[nn.Module]) -> None:
        """Let every call of ``layers`` be `handler`'s; they stay instances of their classes."""
        for index, layer in enumerate(layers):
            kind = type(layer)
            layer.__class__ = type(kind.__name__, (_Conducted, kind), {"__module__": __name__})
            # not modules or parameters, and no business of nn.Module
            object.__setattr__(layer, "conductor", self)
            object.__setattr__(layer, "conducted_as", index)


def run(
    index: int,
    forward: Callable[..., object],
    arguments: tuple[object, ...],
    keywords: dict[str, object],
) -> object:
    """Run layer ``index``."""
    return forward(*arguments, **keywords)


class _Conducted(nn.Module):
    conductor: Conductor
    conducted_as: int

    def forward(self, *arguments: object, **keywords: object) -> object:
        """Do what the conductor says."""
        return self.conductor.handler(self.conducted_as, super().forward, arguments, keywords)
