"""The class that users import, and AirLLM's names for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from airllm_rs.auto.loading import load_model
from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import from_keywords
from airllm_rs.stats.progress import choose_progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from airllm_rs.auto.model import Model


class AutoModel:
    """Opens models; see `from_pretrained`."""

    def __init__(self) -> None:
        raise TypeError("use AutoModel.from_pretrained(path)")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        device: str = "auto",
        dtype: object = None,
        max_seq_len: int | None = None,
        layer_shards_saving_path: str | None = None,
        profiling_mode: bool = False,
        compression: str | None = None,
        hf_token: str | None = None,
        prefetching: bool = True,
        delete_original: bool = False,
        *,
        memory: str | int = "auto",
        device_memory: str | int = "auto",
        weights_memory: str | int | None = None,
        context: int | None = None,
        max_num_seqs: int = 1,
        kv_cache_dtype: str = "auto",
        draft_memory: str | int | None = None,
        draft: str | None = "auto",
        engine: str = "auto",
        verify: str = "first",
        config_overrides: Mapping[str, object] | None = None,
        progress: bool | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        throttle_gbps: float | None = None,
        latency_us: int = 0,
        mlock: bool = False,
        **others: object,
    ) -> Model:
        """Open a model whose weights stay in memory as far as the budget goes, and stream else.

        Args:
            pretrained_model_name_or_path: A directory, a ``.safetensors`` or ``.gguf`` file, or a
                hub id.
            device: ``"auto"`` or ``"cpu"``; other executors do not exist yet.
            dtype: Of the arithmetic: float32, bfloat16 or float16; as stored if None.
            max_seq_len: Accepted for AirLLM's sake; what is reserved is ``context``.
            layer_shards_saving_path: Where stores that ``compression`` makes go, converted
                ``.bin`` checkpoints and what is made of a GGUF file's metadata; our cache
                directory if None.
            profiling_mode: Log the counters after every `generate`.
            compression: ``"8bit"``, ``"4bit"``, ``"4bit-hq"`` or ``"nf4"``: run a store with
                weights encoded so, which is found, or made once.
            hf_token: For private repositories of the hub.
            prefetching: Read ahead of use; False reads each matrix when it is needed.
            delete_original: Delete the checkpoint's weights when that store has been verified;
                nothing without ``compression``.
            memory: Host budget of the whole process: bytes, ``"3GiB"``, ``"60%"`` or ``"auto"``.
            device_memory: Not available yet.
            weights_memory: A cap for weights alone; the way to make a small model stream.
            context: Tokens that the plan holds; what the model can, at most 4096, if None.
            max_num_seqs: Sequences of that length that the plan holds.
            kv_cache_dtype: Not available yet.
            draft_memory: Not available yet.
            draft: Not available yet; ``"auto"`` and None mean the same.
            engine: ``"auto"``, ``"uring"``, ``"direct"``, ``"buffered"``, or ``"mmap"`` (a
                baseline, with which a truncated file kills the process).
            verify: When checksums of a store are checked: ``"first"`` at the first load after it
                was made or changed, ``"always"`` or ``"off"``. Other checkpoints have none.
            config_overrides: Keys laid over config.json.
            progress: None: bars on a terminal or in a notebook, a log line every 30 s elsewhere.
            revision: Branch, tag or commit of a hub id.
            cache_dir: Where the hub's files are cached.
            local_files_only: Download nothing.
            trust_remote_code: Ignored: no remote code is run.
            throttle_gbps: Pretend to a disk of so many 10^9 bytes a second.
            latency_us: Pretend that every read takes so long at least.
            mlock: Lock weights in memory, so that they are never swapped out; where the system
                refuses, a warning says so.
            **others: ``torch_dtype`` and ``token``, other names of ``dtype`` and ``hf_token``.

        Raises:
            TypeError: for a keyword that does not exist; says which does.
            ValueError: for a value that cannot be.
            BudgetError: if the memory allowed is too little; names the smallest that works.
            AirLLMError: for whatever is wrong with the checkpoint.
            OSError: if a file cannot be read.
        """
        options = from_keywords(
            {
                "device": device,
                "dtype": dtype,
                "max_seq_len": max_seq_len,
                "layer_shards_saving_path": layer_shards_saving_path,
                "profiling_mode": profiling_mode,
                "compression": compression,
                "hf_token": hf_token,
                "prefetching": prefetching,
                "delete_original": delete_original,
                "memory": memory,
                "device_memory": device_memory,
                "weights_memory": weights_memory,
                "context": context,
                "max_num_seqs": max_num_seqs,
                "kv_cache_dtype": kv_cache_dtype,
                "draft_memory": draft_memory,
                "draft": draft,
                "engine": engine,
                "verify": verify,
                "config_overrides": config_overrides,
                "progress": progress,
                "revision": revision,
                "cache_dir": cache_dir,
                "local_files_only": local_files_only,
                "trust_remote_code": trust_remote_code,
                "throttle_gbps": throttle_gbps,
                "latency_us": latency_us,
                "mlock": mlock,
                **others,
            }
        )
        shown = choose_progress(options.progress)
        opened = open_model(pretrained_model_name_or_path, options, progress=shown)
        return load_model(opened, shown)


class AirLLMBaseModel(AutoModel):
    """AirLLM's name: calling it is `AutoModel.from_pretrained`, whatever the architecture."""

    def __new__(cls, *arguments: object, **keywords: object) -> Self:
        """Open a model."""
        return cls.from_pretrained(*arguments, **keywords)  # type: ignore[arg-type, return-value]


class AirLLMLlama2(AirLLMBaseModel):
    """AirLLM's name."""


class AirLLMMistral(AirLLMBaseModel):
    """AirLLM's name."""


class AirLLMQWen2(AirLLMBaseModel):
    """AirLLM's name."""


class AirLLMQWen(AirLLMBaseModel):
    """AirLLM's name."""


class AirLLMChatGLM(AirLLMBaseModel):
    """AirLLM's name."""


class AirLLMBaichuan(AirLLMBaseModel):
    """AirLLM's name."""


class AirLLMInternLM(AirLLMBaseModel):
    """AirLLM's name."""


class AirLLMMixtral(AirLLMBaseModel):
    """AirLLM's name."""
