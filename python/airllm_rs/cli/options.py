"""The flags that commands share, and the `LoadOptions` that they become."""

import json
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated

import typer

from airllm_rs.auto.options import ENGINES, LoadOptions

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A directory, a .gguf file, a hub id, or ID:Q4_K_M for a GGUF file on the hub.",
        show_default=False,
    ),
]
JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but warnings and errors.")
]
ProgressFlag = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress",
        help="Bars on stderr. By default on a terminal; elsewhere a line every 30 s.",
        show_default=False,
    ),
]

_Command = Callable[..., None]
_Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a hub id.", show_default=False)
]
_CacheDir = Annotated[
    Path | None, typer.Option(help="Where the hub's files are cached.", show_default=False)
]
_LocalFilesOnly = Annotated[bool, typer.Option("--local-files-only", help="Download nothing.")]
_HfToken = Annotated[
    str | None,
    typer.Option(envvar="HF_TOKEN", help="For private repositories of the hub."),
]
_ConfigOverrides = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help="Keys of config.json, laid over what the file says: '{\"rope_theta\": 1e6}'.",
        show_default=False,
    ),
]


def opening_options(
    revision: _Revision = None,
    cache_dir: _CacheDir = None,
    local_files_only: _LocalFilesOnly = False,
    hf_token: _HfToken = None,
    config_overrides: _ConfigOverrides = None,
    progress: ProgressFlag = None,
) -> LoadOptions:
    """Return the options of a command that only looks at files."""
    return LoadOptions(
        revision=revision,
        cache_dir=str(cache_dir) if cache_dir is not None else None,
        local_files_only=local_files_only,
        hf_token=hf_token or None,
        config_overrides=_json_object("config_overrides", config_overrides),
        progress=progress,
    )


def load_options(
    memory: Annotated[
        str, typer.Option(help="The budget of the whole process: auto, 3GiB, 60%.")
    ] = "auto",
    device_memory: Annotated[
        str, typer.Option(help="Only auto: there is no GPU executor yet.")
    ] = "auto",
    weights_memory: Annotated[
        str | None,
        typer.Option(
            help="A cap for weights alone; makes a small model stream.", show_default=False
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens that the KV cache holds. By default what the request needs, else what "
            "the model can, at most 4096.",
            show_default=False,
        ),
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    compression: Annotated[
        str | None,
        typer.Option(
            help="8bit, 4bit, 4bit-hq or nf4: run a store with weights encoded so, found or made "
            "once. By default weights are used as they are.",
            show_default=False,
        ),
    ] = None,
    kv_cache_dtype: Annotated[
        str, typer.Option(help="Only auto: they have the dtype of the arithmetic.")
    ] = "auto",
    draft: Annotated[
        str, typer.Option(help="Only auto or none: there is no speculation yet.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu.")] = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="What to compute in: float32, bfloat16. By default as stored, where the CPU can.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help=f"How the disk is read: {', '.join(ENGINES)}.")
    ] = "auto",
    verify: Annotated[
        str,
        typer.Option(
            help="When a store's checksums are checked: first (at the first load after it was "
            "made or changed), always, off."
        ),
    ] = "first",
    throttle_gbps: Annotated[
        float | None, typer.Option(help="Slow the disk down to GB/s.", show_default=False)
    ] = None,
    latency_us: Annotated[int, typer.Option(help="Delay each read by microseconds.")] = 0,
    mlock: Annotated[
        bool, typer.Option("--mlock", help="Lock weights in memory: they are never swapped out.")
    ] = False,
    config_overrides: _ConfigOverrides = None,
    revision: _Revision = None,
    cache_dir: _CacheDir = None,
    local_files_only: _LocalFilesOnly = False,
    hf_token: _HfToken = None,
    progress: ProgressFlag = None,
) -> LoadOptions:
    """Return the options of a command that loads or plans."""
    return LoadOptions(
        device=device,
        dtype=dtype,
        compression=compression,
        memory=memory,
        device_memory=device_memory,
        weights_memory=weights_memory,
        context=context,
        max_num_seqs=max_num_seqs,
        kv_cache_dtype=kv_cache_dtype,
        draft=None if draft == "none" else draft,
        engine=engine,
        verify=verify,
        throttle_gbps=throttle_gbps,
        latency_us=latency_us,
        mlock=mlock,
        config_overrides=_json_object("config_overrides", config_overrides),
        progress=progress,
        revision=revision,
        cache_dir=str(cache_dir) if cache_dir is not None else None,
        local_files_only=local_files_only,
        hf_token=hf_token or None,
    )


def takes(builder: Callable[..., LoadOptions]) -> Callable[[_Command], _Command]:
    """Give a command the flags of ``builder``, whose result is its argument ``options``."""
    flags = signature(builder).parameters

    def decorate(command: _Command) -> _Command:
        own_signature = signature(command)
        own = [p for name, p in own_signature.parameters.items() if name != "options"]
        parameters = [
            parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in (*own, *flags.values())
        ]

        @wraps(command)
        def wrapper(**given: object) -> None:
            options = builder(**{name: given.pop(name) for name in flags})
            command(**given, options=options)

        # what Typer reads
        wrapper.__signature__ = own_signature.replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _json_object(option: str, text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{option}={text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{option}={text!r}: use an object such as '{{\"rope_theta\": 1e6}}'")
    return value
