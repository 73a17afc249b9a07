"""A real checkpoint made larger without changing what it computes."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING

from airllm_rs.benchmarks.make_model import MadeModel, new_directory, write_weights
from airllm_rs.checkpoint import open_checkpoint
from airllm_rs.checkpoint.durable import write_json
from airllm_rs.checkpoint.writing import ITEM_BYTES, PlannedTensor, plan_files
from airllm_rs.errors import AirLLMError, CheckpointError, UnsupportedModelError
from airllm_rs.families import read_config, understand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from airllm_rs.checkpoint import ModelFiles
    from airllm_rs.stats.progress import Progress

_BLOCK_BYTES = 4 << 20
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".gguf")
# names under which the MLP's neurons are rows, and the one under which they are columns
_ROWS = (".mlp.gate_proj.weight", ".mlp.up_proj.weight", ".mlp.gate_proj.bias", ".mlp.up_proj.bias")
_COLUMNS = (".mlp.down_proj.weight",)


def widen(
    source: str | PathLike[str], out: Path, intermediate_size: int, *, progress: Progress
) -> MadeModel:
    """Write ``source`` to ``out`` with zero neurons added to the MLP of every layer.

    A neuron whose gate and up rows are zero is zero whatever comes in, so every output stays.

    Args:
        source: What `open_checkpoint` takes.
        out: Must not exist, or be empty.
        intermediate_size: The neurons that each MLP will have.
        progress: Shows how far the writing is.

    Raises:
        AirLLMError: if ``out`` holds something, or the MLPs would not grow.
    """
    files = open_checkpoint(source, progress=progress)
    config = read_config(files.config)
    if intermediate_size <= config.intermediate_size:
        raise AirLLMError(
            f"{source} has an intermediate size of {config.intermediate_size}: "
            f"widening to {intermediate_size} adds nothing"
        )
    config, family, _ = understand(config, files)
    specs = {spec.name: spec for layer in family.layers(config) for spec in layer.tensors}
    present = set(files.names())
    tensors = []
    for name in specs:
        if name not in present:
            continue
        info = files.tensor(name)
        if info.dtype not in ITEM_BYTES:
            raise UnsupportedModelError(f"{name} is stored as {info.dtype}: widen copies no such")
        tensors.append(
            PlannedTensor(name, info.dtype, _widened(name, info.shape, intermediate_size))
        )
    planned = plan_files(tensors)
    with new_directory(out, sum(file.nbytes for file in planned)) as partial:
        for path in files.path.iterdir():
            if path.is_file() and not path.name.endswith(_WEIGHTS):
                copyfile(path, partial / path.name)
        wider = {**files.config, "intermediate_size": intermediate_size}
        write_json(partial / "config.json", wider, indent=2)
        return write_weights(out, partial, planned, lambda t: _content(files, t), progress)


def _widened(name: str, shape: tuple[int, ...], neurons: int) -> tuple[int, ...]:
    if name.endswith(_ROWS):
        return (neurons, *shape[1:])
    if name.endswith(_COLUMNS):
        return (shape[0], neurons)
    return shape


def _content(files: ModelFiles, tensor: PlannedTensor) -> Iterator[memoryview]:
    """Yield the bytes of the tensor with zeros where it grew."""
    stored = files.tensor(tensor.name)
    if tensor.name.endswith(_COLUMNS):
        old, new = (shape[1] * ITEM_BYTES[tensor.dtype] for shape in (stored.shape, tensor.shape))
        block = max(_BLOCK_BYTES // new, 1)
        for start in range(0, stored.shape[0], block):
            rows = min(block, stored.shape[0] - start)
            wide = bytearray(rows * new)
            read = _read(files, tensor.name, start * old, rows * old)
            for row in range(rows):
                wide[row * new : row * new + old] = read[row * old : (row + 1) * old]
            yield memoryview(wide)
        return
    for start in range(0, stored.nbytes, _BLOCK_BYTES):
        size = min(_BLOCK_BYTES, stored.nbytes - start)
        yield memoryview(_read(files, tensor.name, start, size))
    for start in range(0, tensor.nbytes - stored.nbytes, _BLOCK_BYTES):
        yield memoryview(bytes(min(_BLOCK_BYTES, tensor.nbytes - stored.nbytes - start)))


def _read(files: ModelFiles, name: str, start: int, size: int) -> bytes:
    info = files.tensor(name)
    with Path(files.files[info.file]).open("rb", buffering=0) as file:
        file.seek(info.offset + start)
        found = file.read(size)
    if len(found) != size:
        raise CheckpointError(
            f"{files.files[info.file]}: {name} ends at byte {start + len(found)} of {info.nbytes}"
        )
    return found
