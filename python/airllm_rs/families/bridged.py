"""What the planner has to know of a model that runs through transformers' own layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from airllm_rs.config import ModelConfig
from airllm_rs.families.family import Family, Layer

RECORDED_BYTES = 64 << 20
"""What masks and positions of chunks may take that wait for the next layer."""


def _no_tensors(config: ModelConfig, index: int) -> tuple[()]:
    raise AssertionError("the layers of a bridged model are found, not derived")


@dataclass(frozen=True)
class BridgedConfig(ModelConfig):
    """What config.json says of a bridged model; transformers has checked it."""

    family: BridgedFamily | None = None
    """None until the checkpoint's tensors are known."""
    kv_windows: tuple[int | None, ...] = ()
    """The window of each layer that keeps keys and values, None where it keeps all."""

    def __post_init__(self) -> None:
        """Check nothing: transformers has."""

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer that keeps keys and values, None where it keeps all."""
        return self.kv_windows


@dataclass(frozen=True)
class BridgedFamily(Family):
    """The layers that were found in a model of transformers, and what they take beside weights."""

    decoder: object = _no_tensors  # type: ignore[assignment]
    found: tuple[Layer, ...] = ()
    """In order of use; tensors have the names of the checkpoint."""
    unused: tuple[str, ...] = ()
    """Tensors that no rule says may be there."""
    left_out: tuple[str, ...] = ()
    """Tensors of parts that do not run, such as a vision tower."""
    kv_numbers: int = 0
    """Keys and values that a token adds in one layer, the most of all layers."""
    state_numbers: int = 0
    """What layers keep of a sequence whatever its length, all together."""
    assembled_numbers: int = 0
    """The most weights that one layer puts together in memory at a time."""
    cuts_prompts: bool = True
    """Whether a prompt may be run in chunks."""
    why_by_chunk: str = ""
    """Why a chunk passes all layers before the next one begins; empty where that need not be."""
    skeleton: object = field(default=None, repr=False, compare=False)
    """What `airllm_rs.models.bridge` runs, on meta."""

    @property
    def keeps_states_alone(self) -> bool:
        """Whether no layer keeps keys and values."""
        return self.state_numbers > 0 and self.kv_numbers == 0

    def layers(self, config: ModelConfig) -> tuple[Layer, ...]:
        """Return the layers in order of use."""
        return self.found

    def rule_for(self, name: str, config: ModelConfig) -> str | None:
        """Return why a tensor that is no part of what runs may be in its checkpoint."""
        if name in self.unused:
            return None
        if name in self.left_out:
            return "a part that does not run: only the text part does"
        return "transformers has no use for it"

    def attention(self, config: ModelConfig, index: int) -> str:
        """Return ``full`` or ``sliding``; ``unknown`` where layers without a cache lie between."""
        if len(config.windows) != config.num_hidden_layers:
            return "unknown"
        return super().attention(config, index)

    def kv_bytes_per_token(self, config: ModelConfig, item_size: int) -> int:
        """Return the bytes of keys and values that one token adds in all layers together."""
        return len(config.windows) * self.kv_bytes_per_layer(config, item_size)

    def kv_bytes_per_layer(self, config: ModelConfig, item_size: int) -> int:
        """Return the bytes of keys and values that one token adds in one layer."""
        return self.kv_numbers * item_size

    def beside_bytes(
        self, config: ModelConfig, *, rows: int, context: int, sequences: int, item: int
    ) -> int:
        """Return what a run takes beside its weights, keys and values, and what all models take."""
        extra = 0
        if not self.cuts_prompts:
            rows = context * sequences
            widest = max(config.intermediate_size, config.hidden_size)
            # projections, their convolution, gates and the states of a scan in float32
            extra = rows * (6 * widest * item + 4 * widest * 4)
        if not self.why_by_chunk:
            extra += min(context * context * sequences * 4, RECORDED_BYTES)
        # weights as they are stored beside what is made of them
        extra += 2 * self.assembled_numbers * item
        # a cache that grows by copying has its largest layer twice
        extra += 2 * self.kv_numbers * item * context * sequences
        return extra + self.state_numbers * 4 * sequences
