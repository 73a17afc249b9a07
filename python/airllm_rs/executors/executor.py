"""What runs a model, whoever wrote its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from airllm_rs.cache.kv import AnyCache
    from airllm_rs.memory import MemoryPlan
    from airllm_rs.weights.source import WeightSource


class Tree(Protocol):
    """A module tree: what is below the head, and the head."""

    @property
    def model(self) -> nn.Module:
        """What is below the head."""

    @property
    def lm_head(self) -> nn.Module:
        """The head."""


class Executor(Protocol):
    """Runs sweeps; see `StreamingExecutor` and `BridgedExecutor`."""

    sweeps: int
    device: torch.device
    dtype: torch.dtype

    @property
    def weights(self) -> WeightSource:
        """Where tensors come from."""

    @property
    def plan(self) -> MemoryPlan:
        """The memory plan in force."""

    @property
    def tree(self) -> Tree:
        """The modules."""

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""

    @property
    def changes_past(self) -> int | None:
        """Tokens past which a cache of fewer is of no use, and all tokens are run again."""

    def new_cache(self, capacity: int) -> AnyCache | None:
        """Return an empty cache for ``capacity`` tokens of each sequence; None if there is none."""

    def sweep(
        self,
        inputs: Tensor,
        *,
        positions: Tensor | None = None,
        valid: Tensor | None = None,
        cache: AnyCache | None = None,
        wanted: int | Tensor = 0,
        hidden_states: list[Tensor] | None = None,
    ) -> Tensor:
        """Run tokens through the model and return logits in float32, of shape (B, W, V)."""

    def make_room(self, tokens: int, sequences: int) -> None:
        """Plan anew if the plan does not hold ``tokens`` of each of so many sequences."""

    def close(self) -> None:
        """Let go of all weights and stop reading."""
