"""`airllm-rs verify`: whether every byte of a store is the one that was written."""

import time
from pathlib import Path
from typing import Annotated

import typer

from airllm_rs.cli.options import JsonFlag, ProgressFlag, QuietFlag
from airllm_rs.cli.output import pairs, print_json, print_table, show_log
from airllm_rs.memory import format_bytes
from airllm_rs.stats import choose_progress
from airllm_rs.store.verification import verify_store


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
    nbytes = verify_store(store, choose_progress(progress))
    seconds = time.monotonic() - started
    if as_json:
        print_json({"ok": True, "bytes": nbytes, "seconds": seconds})
        return
    rate = nbytes / 1e9 / seconds
    size = f"{format_bytes(nbytes)} in {seconds:.1f} s ({rate:.2f} GB/s)"
    print_table(pairs([("store", str(store)), ("every byte is right", size)]))
