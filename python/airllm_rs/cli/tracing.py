"""The flag ``--trace`` of commands that run a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from airllm_rs.auto.model import Model
    from airllm_rs.auto.options import LoadOptions

TraceFlag = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Write what was read, waited for and computed when, for chrome://tracing, "
        "ui.perfetto.dev and bench io --replay.",
        show_default=False,
    ),
]


def traced(options: LoadOptions, file: Path | None) -> LoadOptions:
    """Return options that record what ``file`` is to hold, if there is one.

    Raises:
        OSError: if the file could not be written later.
    """
    if file is None:
        return options
    from airllm_rs.benchmarks.trace import check_target

    check_target(file)
    return replace(options, trace=True)


def save_trace(file: Path, model: Model) -> None:
    """Write what a model recorded that is closed by now."""
    from airllm_rs.benchmarks.trace import write_trace

    write_trace(file, model)
