"""The files of one model: parsed configuration files, and tensors by name."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.stored import StoredWeight, TensorInfo, main_dtype, one_of_those, plain
from airllm_rs.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airllm_rs.checkpoint.tensor_table import TensorTable


HEAD = "lm_head.weight"


@dataclass(frozen=True)
class ModelFiles:
    """A checkpoint that was opened: headers are parsed and checked, no weight is read."""

    path: Path
    config: Mapping[str, object] = field(repr=False)
    """The contents of config.json."""
    generation_config: Mapping[str, object] = field(repr=False)
    """The contents of generation_config.json, empty without one."""
    core: TensorTable = field(repr=False)
    packed: Mapping[str, StoredWeight] = field(default_factory=dict, repr=False)
    """Weights that are no plain tensors, or whose rows are in another order, by name."""
    converts_tokenizer: bool = False
    """Whether the tokenizer is made of a GGUF file, when `tokenizer_directory` is first called."""

    remote_sizes: tuple[int, ...] | None = None
    """The bytes of files that are on the hub, and not here; None if they are here."""

    @property
    def is_local(self) -> bool:
        """Whether the weights are here; if not, only headers are, and offsets and sizes in them."""
        return self.remote_sizes is None

    @property
    def files(self) -> tuple[str, ...]:
        """Absolute paths of the files that hold tensors; their names where they are not here."""
        return tuple(self.core.files)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The bytes of each of `files`.

        Raises:
            OSError: if one is gone.
        """
        if self.remote_sizes is not None:
            return self.remote_sizes
        return tuple(Path(file).stat().st_size for file in self.files)

    def tensor(self, name: str) -> TensorInfo:
        """Return what a tensor is and where it lies.

        Raises:
            KeyError: if there is none of that name.
        """
        return TensorInfo(*self.core.tensor(name))

    def stored(self, name: str) -> StoredWeight:
        """Return how a weight is stored; ``name[3]`` is the fourth of those in a tensor.

        Raises:
            KeyError: if there is none of that name.
        """
        found = self.packed.get(name)
        return one_of_those(name, self._stored) if found is None else found

    def _stored(self, name: str) -> StoredWeight:
        found = self.packed.get(name)
        return plain(name, self.tensor(name)) if found is None else found

    def names(self) -> list[str]:
        """Return the names of all tensors, in file order."""
        return list(self.core.names())

    def weight_names(self) -> list[str]:
        """Return the names of all weights: of plain tensors, and of packed weights."""
        return list(self._weight_names)

    @cached_property
    def _weight_names(self) -> tuple[str, ...]:
        parts = {part.tensor for weight in self.packed.values() for part in weight.parts}
        parts.update(name for weight in self.packed.values() for name in weight.aside)
        return (*(name for name in self.names() if name not in parts), *self.packed)

    @property
    def schemes(self) -> dict[str, int]:
        """How many weights are packed in which way."""
        return dict(Counter(weight.dtype for weight in self.packed.values()))

    @property
    def main_dtype(self) -> str:
        """The dtype that most bytes of weights have; of a packed model, of what is not packed."""
        weights = [self.stored(name) for name in self.weight_names()]
        plain_ones = [weight for weight in weights if weight.layout is None]
        if len(plain_ones) == len(weights):
            return main_dtype(weight.parts[0].info for weight in plain_ones)
        # vectors are float32 in many files, whatever the model was
        matrices = [weight.parts[0].info for weight in plain_ones if len(weight.shape) > 1]
        return main_dtype(matrices, default="BF16")


def assemble(
    directory: Path,
    config: Mapping[str, object],
    core: TensorTable,
    packed: Mapping[str, StoredWeight],
    *,
    remote_sizes: tuple[int, ...] | None = None,
) -> ModelFiles:
    """Return the files of a model whose configuration lies in ``directory``.

    Args:
        directory: Where config.json is.
        config: Its contents.
        core: The tensors.
        packed: Those that are no plain numbers.
        remote_sizes: As `ModelFiles` has them.
    """
    if HEAD in packed:  # of a tied model, whose table is not packed
        config = {**config, "tie_word_embeddings": False}
    generation = directory / "generation_config.json"
    return ModelFiles(
        path=directory,
        config=config,
        generation_config=read_json(generation) if generation.exists() else {},
        core=core,
        packed=packed,
        remote_sizes=remote_sizes,
    )


def read_json(path: Path, missing: str | None = None) -> dict[str, object]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: saying ``missing`` if the file does not exist.
        ConfigError: if the file does not hold an object, naming the place.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(missing or f"{path}: no such file") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ConfigError(f"{path} is not JSON: {where}: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected an object, found {type(content).__name__}")
    return content
