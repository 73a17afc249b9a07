"""`airllm-rs shard`: a store of a checkpoint, compressed or not."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from airllm_rs.auto.options import LoadOptions
from airllm_rs.auto.sharding import shard as make
from airllm_rs.cli.options import JsonFlag, QuietFlag, opening_options, takes
from airllm_rs.cli.output import pairs, print_json, print_table, show_log
from airllm_rs.memory import format_bytes
from airllm_rs.stats import choose_progress
from airllm_rs.store.manifest import HEAD_LAYER

if TYPE_CHECKING:
    from airllm_rs.store import Store


@takes(opening_options)
def shard(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A directory, a hub id or a .safetensors file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        list[Path],
        typer.Argument(
            metavar="OUT...",
            help="A directory; of several, each on a disk of its own, all are read at once.",
            show_default=False,
        ),
    ],
    options: LoadOptions,
    compression: Annotated[
        str | None,
        typer.Option(
            help="8bit, 4bit, 4bit-hq or nf4. By default weights stay as they are.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str, typer.Option(help="The budget of the whole process: auto, 3GiB, 60%.")
    ] = "auto",
    delete_original: Annotated[
        bool,
        typer.Option(
            "--delete-original",
            help="Delete the checkpoint's weights when the store has been verified.",
        ),
    ] = False,
    while_downloading: Annotated[
        bool,
        typer.Option(
            "--while-downloading",
            help="Fetch a hub id file by file and keep none: takes little more than the result.",
        ),
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make a shard store of a checkpoint.

    What was interrupted goes on; a store that is there already is verified, once, and what is
    damaged in it is made again.
    """
    show_log(quiet=quiet)
    started = time.monotonic()
    try:
        made = make(
            model,
            out,
            options,
            choose_progress(options.progress),
            compression=compression,
            memory=memory,
            delete_original=delete_original,
            while_downloading=while_downloading,
        )
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("the same command goes on from here") from error
    store, seconds = made.store, time.monotonic() - started
    if as_json:
        print_json(
            {
                "directories": [str(path) for path in store.directories],
                "scheme": store.scheme,
                "total_bytes": store.nbytes,
                "source_bytes": made.read_bytes,
                "files_made": made.files_made,
                "files_kept": made.files_kept,
                "not_finite": [name for file in store.files for name in file.not_finite],
                "deleted_bytes": made.deleted_bytes,
                "seconds": seconds,
                "gb_per_s": made.read_bytes / 1e9 / seconds,
            }
        )
        return
    rate = f"{seconds:.1f} s ({made.read_bytes / 1e9 / seconds:.2f} GB/s of the checkpoint)"
    kept = f", {made.files_kept} were there" if made.files_kept else ""
    rows = [
        ("store", ", ".join(str(path) for path in store.directories)),
        ("weights", f"{format_bytes(store.nbytes)}, {store.scheme or 'as they were'}"),
        ("files", f"{made.files_made} made{kept}"),
        ("time", rate if made.files_made else "nothing to do: it is there"),
    ]
    if store.source.get("tied") is True:
        rows.insert(2, ("head", _head(store)))
    if made.deleted_bytes:
        rows.append(("deleted", f"{format_bytes(made.deleted_bytes)} of the checkpoint"))
    print_table(pairs(rows))


def _head(store: "Store") -> str:
    """Return what a head takes that the checkpoint does not have."""
    nbytes = sum(file.nbytes for file in store.files if file.layer == HEAD_LAYER)
    return f"{format_bytes(nbytes)}, in 8bit, beside the embedding table that it was made of"
