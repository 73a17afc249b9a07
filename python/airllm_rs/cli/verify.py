"""`airllm-rs verify`: whether every byte of a store is the one that was written."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from airllm_rs.cli.options import JsonFlag, ProgressFlag, QuietFlag
from airllm_rs.cli.output import pairs, print_json, print_table, show_log
from airllm_rs.errors import CheckpointError
from airllm_rs.memory import format_bytes
from airllm_rs.stats import choose_progress
from airllm_rs.store.verification import damaged_files, store_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airllm_rs.store.manifest import StoredFile

_SHOWN = 3


def verify(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="A shard store.", show_default=False)
    ],
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    progress: ProgressFlag = None,
) -> None:
    """Read every byte of a shard store and hold it against its checksum."""
    show_log(quiet=quiet)
    started = time.monotonic()
    found = store_in(store)
    damaged = damaged_files(found, choose_progress(progress))
    seconds = time.monotonic() - started
    if as_json:
        print_json(
            {
                "ok": not damaged,
                "bytes": found.nbytes,
                "seconds": seconds,
                "damaged": [
                    {"file": str(found.directories[file.directory] / file.name), "error": why}
                    for file, why in damaged
                ],
            }
        )
    if damaged:
        raise CheckpointError(_complaint(damaged, len(found.files)))
    if as_json:
        return
    rate = found.nbytes / 1e9 / seconds
    size = f"{format_bytes(found.nbytes)} in {seconds:.1f} s ({rate:.2f} GB/s)"
    print_table(pairs([("store", str(store)), ("every byte is right", size)]))


def _complaint(damaged: "Sequence[tuple[StoredFile, str]]", count: int) -> str:
    first, *others = damaged
    if not others:
        return first[1]
    names = ", ".join(file.name for file, _ in others[:_SHOWN])
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    problem, _, advice = first[1].partition("; ")
    return f"{len(damaged)} of {count} files: {problem}; others are {names}{more}; {advice}"
