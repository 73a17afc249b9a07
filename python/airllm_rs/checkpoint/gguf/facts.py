"""What a GGUF file says, as the description of an architecture reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.gguf.names import EMBEDDING
from airllm_rs.errors import CheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from airllm_rs.checkpoint.gguf.metadata import Metadata
    from airllm_rs.checkpoint.gguf.source import StoredTensor


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    turned: int
    """Items of a head that RoPE turns."""

    @property
    def queries(self) -> int:
        """Rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Rows of the key projection."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Facts:
    """A file's metadata and tensors."""

    path: Path
    """For messages."""
    metadata: Metadata
    """The keys of its architecture."""
    tensors: Mapping[str, StoredTensor]
    vector: Callable[[str], npt.NDArray[np.float32] | None]
    """Returns the contents of a small tensor; None if there is none of that name."""

    def has(self, name: str, layer: int = 0) -> bool:
        """Tell whether a layer has a tensor of this name, such as ``attn_q.bias``."""
        return f"blk.{layer}.{name}" in self.tensors

    def shape(self, *, is_partial: bool = False) -> Shape:
        """Return the sizes of a model with attention as most have it.

        Args:
            is_partial: Whether RoPE may turn a part of each head.

        Raises:
            CheckpointError: if a size is missing, or contradicts another.
            UnsupportedModelError: if heads have no one size.
        """
        metadata = self.metadata
        heads = metadata.required_count("attention.head_count")
        hidden = metadata.required_count("embedding_length")
        head_dim = metadata.count("attention.key_length")
        if head_dim is None and hidden % heads:
            raise CheckpointError(
                f"{self.path}: embedding_length ({hidden}) is not a multiple of "
                f"attention.head_count ({heads}), and there is no attention.key_length"
            )
        head_dim = head_dim or hidden // heads
        if head_dim % 2:
            raise UnsupportedModelError(f"{self.path}: heads of {head_dim}, which is odd")
        turned = metadata.count("rope.dimension_count") or head_dim
        fits = turned % 2 == 0 and turned <= head_dim if is_partial else turned == head_dim
        for key, other, is_right in (
            ("rope.dimension_count", turned, fits),
            ("attention.value_length", value := metadata.count("attention.value_length"),
             value in (None, head_dim)),
        ):  # fmt: skip
            if not is_right:
                raise UnsupportedModelError(
                    f"{self.path}: {key} is {other} and heads are of {head_dim}: cannot be imported"
                )
        return Shape(
            layers=self.layers(),
            hidden=hidden,
            inner=metadata.required_count("feed_forward_length"),
            heads=heads,
            kv_heads=metadata.count("attention.head_count_kv") or heads,
            head_dim=head_dim,
            vocab=self.vocab(),
            turned=turned,
        )

    def vocab(self) -> int:
        """Return the rows of the embedding table.

        Raises:
            CheckpointError: if there is none.
        """
        table = self.tensors.get(EMBEDDING)
        if table is None:
            raise CheckpointError(f"{self.path} lacks {EMBEDDING}")
        return table.shape[0]

    def layers(self) -> int:
        """Return how many decoder layers there are, those that guess further tokens apart.

        Raises:
            CheckpointError: if that is missing, or more than the file can have.
        """
        count = self.metadata.required_count("block_count")
        if count > len(self.tensors):
            raise CheckpointError(
                f"{self.path}: block_count is {count}, and there are {len(self.tensors)} tensors"
            )
        further = self.metadata.token_id("nextn_predict_layers") or 0
        if further >= count:
            raise CheckpointError(
                f"{self.path}: nextn_predict_layers ({further}) leaves none of {count} layers"
            )
        return count - further
