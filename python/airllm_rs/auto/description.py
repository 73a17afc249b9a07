"""What `airllm_rs.inspect` says of a checkpoint, under the names that `inspect --json` prints."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class TensorDescription:
    """A tensor of the checkpoint."""

    name: str
    """As in the file; one expert of several in a tensor is ``name[3]``."""
    dtype: str
    """safetensors' code, such as ``BF16``, or how it is packed, such as ``Q4_K``."""
    shape: list[int]
    """Of the weight, however it is packed."""
    nbytes: int


@dataclass(frozen=True)
class UnitDescription:
    """What is read at once."""

    name: str
    nbytes: int


@dataclass(frozen=True)
class ExpertsDescription:
    """The experts of one layer."""

    count: int
    per_token: int | None
    """How many run for a token."""
    nbytes: int
    """Of one; the largest where they differ."""
    shared_nbytes: int
    """Of what runs for every token beside them, 0 without."""


@dataclass(frozen=True)
class LayerDescription:
    """What is run as one step of a sweep."""

    name: str
    kind: str
    """``embedding``, ``decoder``, ``norm``, ``head``, or ``other``."""
    nbytes: int
    tensors: list[TensorDescription]
    """In order of use; the head of a tied model is the embedding table."""
    window: int | None
    """How many of the latest keys a query sees; None if all."""
    attention: str | None
    """``full``, ``sliding``, ``latent`` (all keys, of which a latent is cached); None without."""
    kv_bytes_per_token: int | None
    """What a token adds to the KV cache."""
    experts: ExpertsDescription | None
    """None where the MLP is a single one."""
    units: list[UnitDescription]
    """What is read for it, in order of use; a tied table is read as the head."""


@dataclass(frozen=True)
class QuantizationDescription:
    """How weights are packed."""

    method: str | None
    """What config.json calls it; None if it says nothing."""
    schemes: dict[str, int]
    """How many weights are packed in which way, as they were found."""


@dataclass(frozen=True)
class FileDescription:
    """A file that holds tensors."""

    path: str
    nbytes: int


@dataclass(frozen=True)
class NearestDescription:
    """The family that is most like the model."""

    model_type: str
    similarity: float
    """Of the names of tensors, numbers aside: those that both have, of those that either has."""


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is; None is not known."""

    path: str
    is_local: bool
    """Whether the weights are here; of a hub id they need not be."""
    model_type: str | None
    architecture: str | None
    native: bool
    """Whether layers of ours run it."""
    bridged: bool
    """Whether transformers' own layers run it, with the weights that we bring."""
    refusal: str | None
    """Why it does not run; None if it does."""
    by_chunk: str | None
    """Why several chunks of a prompt need a sweep each; None if they share one."""
    nearest: NearestDescription | None
    """What it is most like, where it does not run."""
    num_layers: int | None
    """Decoder layers."""
    hidden_size: int | None
    intermediate_size: int | None
    num_attention_heads: int | None
    num_key_value_heads: int | None
    head_dim: int | None
    vocab_size: int | None
    max_position_embeddings: int | None
    sliding_window: int | None
    positions: str | None
    """How positions count: ``rope`` or ``alibi``."""
    rope_type: str | None
    """transformers' word, such as ``yarn``; None without RoPE."""
    tied: bool | None
    """Whether the head is the embedding table."""
    parameters: int | None
    total_bytes: int
    """What is run, each tensor once."""
    dtype: str
    """The dtype that most bytes have; of a quantised model, of what is not packed."""
    quantization: QuantizationDescription | None
    """None if no weight is packed."""
    compute_dtype: str | None
    """What it is computed in on this machine unless asked otherwise."""
    kv_bytes_per_token: int | None
    """In all layers together, in that dtype."""
    num_units: int | None
    """How many reads of a matrix, a block of one or some small tensors it is cut into."""
    largest_unit: UnitDescription | None
    misaligned_tensors: list[str]
    """Not at a multiple of their item size in the file: moved into place after arrival."""
    ignored_tensors: dict[str, list[str]] | None
    """In the files and no part of what runs, by the rule that says so."""
    unused_tensors: list[str] | None
    """In the files and no part of what runs, and no rule knows them."""
    files: list[FileDescription]
    layers: list[LayerDescription]

    def to_json(self) -> dict[str, object]:
        """Return it as objects, lists, numbers and strings."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: object) -> object:
    """Return dataclasses as objects; a large model has a hundred thousand."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, TensorDescription | UnitDescription):
        return dict(vars(value))
    if isinstance(
        value,
        LayerDescription
        | QuantizationDescription
        | FileDescription
        | ExpertsDescription
        | NearestDescription,
    ):
        return {name: _plain(entry) for name, entry in vars(value).items()}
    return value
