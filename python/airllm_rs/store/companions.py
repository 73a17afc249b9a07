"""What lies beside the weights and makes a store a checkpoint of its own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from airllm_rs.checkpoint.durable import write_json
from airllm_rs.checkpoint.model_files import read_json
from airllm_rs.checkpoint.safetensors_files import MANIFEST, STRIPE
from airllm_rs.checkpoint.writing import INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# What configures a model or a tokenizer on the hub. Large ones are other things.
_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
_LARGEST = 256 << 20
_NEVER = (INDEX, "pytorch_model.bin.index.json", MANIFEST, STRIPE, "config.json")


def companions(source: Path) -> Iterator[Path]:
    """Return the files beside the weights that a copy needs, ``config.json`` left out."""
    for path in sorted(source.iterdir()):
        is_small = path.suffix in _SUFFIXES and path.is_file() and path.stat().st_size <= _LARGEST
        is_hidden = path.name.startswith(".")
        if is_small and not is_hidden and path.name not in _NEVER and "README" not in path.name:
            yield path


def copy_companions(
    source: Path, target: Path, scheme: str | None, *, has_own_head: bool
) -> list[str]:
    """Copy configuration, tokenizer and chat template, and return the names.

    Each file is whole or absent.

    Args:
        source: The checkpoint.
        target: The store.
        scheme: How its matrices are encoded.
        has_own_head: Whether it has a head beside the table, even where the checkpoint has not.
    """
    found = list(companions(source))
    for path in found:
        temporary = target / f"{path.name}.tmp"
        shutil.copyfile(path, temporary)
        temporary.replace(target / path.name)
    config = read_json(source / "config.json")
    content = config_of_store(config, scheme, has_own_head=has_own_head)
    write_json(target / "config.json", content, indent=2)
    return ["config.json", *(path.name for path in found)]


def config_of_store(
    config: Mapping[str, object], scheme: str | None, *, has_own_head: bool
) -> dict[str, object]:
    """Return the contents of a store's config.json.

    Args:
        config: Those of the checkpoint's.
        scheme: How its matrices are encoded.
        has_own_head: Whether it has a head beside the table, even where the checkpoint has not.
    """
    changes: dict[str, object] = {}
    if scheme == "nf4":
        changes["quantization_config"] = _BITSANDBYTES
    if has_own_head:
        changes["tie_word_embeddings"] = False
    return {**config, **changes}


# What transformers needs to load the weights through bitsandbytes.
_BITSANDBYTES = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "llm_int8_skip_modules": ["lm_head"],
}
