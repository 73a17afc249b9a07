"""What callers may ask of `from_pretrained`, checked before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from airllm_rs.auto.accelerators import require_device
from airllm_rs.memory import parse_memory
from airllm_rs.store import check_scheme
from airllm_rs.store.verification import MODES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

ENGINES = ("auto", "uring", "direct", "buffered", "mmap")
DTYPES = {
    "float32": "F32",
    "fp32": "F32",
    "float": "F32",
    "bfloat16": "BF16",
    "bf16": "BF16",
    "float16": "F16",
    "fp16": "F16",
    "half": "F16",
}
_RENAMED = {
    "device_map": "device= and memory=",
    "load_in_4bit": 'compression="4bit"',
    "load_in_8bit": 'compression="8bit"',
    "quantization_config": "compression=",
    "max_memory": "memory= and device_memory=",
    "offload_folder": "nothing: the checkpoint is streamed from where it is",
    "low_cpu_mem_usage": "nothing: weights are never loaded twice",
    "attn_implementation": "nothing: attention is chosen by this package",
}
_ALIASES = {"torch_dtype": "dtype", "token": "hf_token"}


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The keywords of `AutoModel.from_pretrained`, which documents them, and some of commands."""

    device: str = "auto"
    dtype: object = None
    """A torch dtype or its name; None for what is stored."""
    max_seq_len: int | None = None
    layer_shards_saving_path: str | None = None
    profiling_mode: bool = False
    compression: str | None = None
    hf_token: str | None = field(default=None, repr=False)
    prefetching: bool = True
    delete_original: bool = False
    memory: str | int = "auto"
    device_memory: str | int = "auto"
    weights_memory: str | int | None = None
    context: int | None = None
    max_num_seqs: int = 1
    kv_cache_dtype: str = "auto"
    draft_memory: str | int | None = None
    draft: str | None = "auto"
    engine: str = "auto"
    verify: str = "first"
    throttle_gbps: float | None = None
    latency_us: int = 0
    mlock: bool = False
    config_overrides: Mapping[str, object] | None = None
    progress: bool | None = None
    revision: str | None = None
    cache_dir: str | PathLike[str] | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    ram: str | int | None = None
    """Plan for a machine with so much memory instead of this one."""
    may_make: bool = True
    """Make a store that ``compression`` needs; who only plans is told what it would be."""
    trace: bool = False
    """Record what is read, waited for and computed; no keyword, but a flag of commands."""

    def __post_init__(self) -> None:
        _one_of("engine", self.engine, ENGINES)
        _one_of("verify", self.verify, MODES)
        check_scheme(self.compression)
        require_device(self.device)
        self.dtype_code  # noqa: B018 - raises for what is no dtype
        if self.context is not None and self.context < 1:
            raise ValueError(f"context is {self.context}: use 1 or more")
        if self.max_num_seqs < 1:
            raise ValueError(f"max_num_seqs is {self.max_num_seqs}: use 1 or more")
        if self.latency_us < 0:
            raise ValueError(f"latency_us is {self.latency_us}: use 0 or more")
        if self.throttle_gbps is not None and not self.throttle_gbps > 0:
            raise ValueError(f"throttle_gbps is {self.throttle_gbps}: use more than 0")
        for name in ("weights_memory", "ram"):
            amount = getattr(self, name)
            if amount is not None:
                parse_memory(amount, name, whole=1 << 40)
        self._refuse_what_does_not_exist()

    @property
    def dtype_code(self) -> str | None:
        """The dtype asked for, as safetensors calls it (``"BF16"``); None for what is stored.

        Raises:
            ValueError: if it is none that a model can compute in.
        """
        if self.dtype is None or self.dtype == "auto":
            return None
        name = str(self.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise ValueError(f"dtype={name!r} is not available: use float32, bfloat16 or float16")
        return DTYPES[name]

    @property
    def is_real(self) -> bool:
        """Whether weights are read ahead, and as fast as the disk can: worth remembering."""
        return self.throttle_gbps is None and not self.latency_us and self.prefetching

    def _refuse_what_does_not_exist(self) -> None:
        absent: tuple[tuple[str, tuple[object, ...], str], ...] = (
            ("device_memory", ("auto", None), "there is no GPU executor yet"),
            ("kv_cache_dtype", ("auto",), "the KV cache has the dtype of the arithmetic"),
            ("draft_memory", (None,), "there is no speculation yet"),
            ("draft", ("auto", None), "there is no speculation yet"),
        )
        for name, accepted, why in absent:
            value = getattr(self, name)
            if value not in accepted:
                raise ValueError(f"{name}={value!r} is not available ({why}); leave it out")


def from_keywords(keywords: Mapping[str, object]) -> LoadOptions:
    """Return the options that a caller's keywords are, aliases among them.

    Raises:
        TypeError: for a keyword that this package calls otherwise, or does not know.
        ValueError: for a value that cannot be.
    """
    known = {entry.name for entry in fields(LoadOptions)} - {"trace", "may_make"}
    found: dict[str, object] = {}
    for name, value in keywords.items():
        if name in _RENAMED:
            raise TypeError(f"from_pretrained() has no {name}=; use {_RENAMED[name]}")
        key = _ALIASES.get(name, name)
        if key not in known:
            raise TypeError(f"from_pretrained() got an unexpected keyword argument {name!r}")
        if found.get(key) is not None:
            raise TypeError(f"from_pretrained() got both {name}= and {key}=; give one")
        found[key] = value
    return LoadOptions(**found)  # type: ignore[arg-type]


def _one_of(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise ValueError(f"{name}={value!r} does not exist: use {', '.join(accepted)}")
