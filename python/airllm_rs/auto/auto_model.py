"""The class that users import, and AirLLM's names for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from airllm_rs.auto.loading import load_model
from airllm_rs.auto.opening import open_model
from airllm_rs.auto.options import from_keywords
from airllm_rs.stats.progress import choose_progress

if TYPE_CHECKING:
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
        **keywords: object,
    ) -> Model:
        """Open a model whose weights stay in memory as far as the budget goes, and stream else.

        Args:
            pretrained_model_name_or_path: A directory, a ``.safetensors`` or ``.gguf`` file, or a
                hub id.
            device: ``"auto"`` or ``"cpu"``; other executors do not exist yet.
            dtype: Of the arithmetic: float32, bfloat16 or float16; as stored if None.
            max_seq_len: Accepted for AirLLM's sake; what is reserved is ``context``.
            layer_shards_saving_path: Where converted checkpoints (``.bin``, GGUF) go; our cache
                directory if None.
            profiling_mode: Log the counters after every generation.
            compression: Not available yet.
            hf_token: For private repositories of the hub.
            prefetching: Read ahead of use; False reads each matrix when it is needed.
            delete_original: Not available yet.
            **keywords: ``memory`` (host budget of the whole process: bytes, ``"3GiB"``, ``"60%"``,
                ``"auto"``), ``weights_memory`` (a cap for weights alone), ``context`` (tokens that
                the plan holds), ``max_num_seqs``, ``engine`` (``"auto"``, ``"uring"``,
                ``"direct"``, ``"buffered"``), ``config_overrides`` (keys laid over config.json),
                ``progress`` (None: bars on a terminal, log lines elsewhere), ``revision``,
                ``cache_dir``, ``local_files_only``, ``yes`` (convert without asking),
                ``throttle_gbps`` and ``latency_us`` (pretend to a slower disk),
                ``trust_remote_code`` (ignored: no remote code is run), and ``device_memory``,
                ``kv_cache_dtype``, ``draft``, ``draft_memory``, ``verify``, of which only the
                defaults are available yet. ``torch_dtype`` and ``token`` are aliases.

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
            }
            | keywords
        )
        progress = choose_progress(options.progress)
        opened = open_model(pretrained_model_name_or_path, options, progress=progress)
        return load_model(opened, progress)


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
