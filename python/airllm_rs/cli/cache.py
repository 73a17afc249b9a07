"""`airllm-rs cache`: what we have put on the disk, and how to be rid of it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from airllm_rs.checkpoint import cache_directory
from airllm_rs.cli.options import JsonFlag, QuietFlag
from airllm_rs.cli.output import print_json, print_table, show_log
from airllm_rs.memory import format_bytes
from airllm_rs.store import registry
from airllm_rs.store.registry import CacheEntry


def list_entries(as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Show stores, conversions and what is unfinished, the largest first."""
    show_log(quiet=quiet)
    found = registry.entries()
    if as_json:
        total = sum(entry.nbytes for entry in found)
        entries = [_as_json(entry) for entry in found]
        print_json({"directory": str(cache_directory()), "total_bytes": total, "entries": entries})
        return
    if not found:
        typer.echo(f"nothing in {cache_directory()}")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("path", "what", "scheme", "made of"):
        table.add_column(name, overflow="fold")
    table.add_column("bytes", justify="right", no_wrap=True)
    for entry in found:
        size = format_bytes(entry.nbytes)
        table.add_row(str(entry.path), entry.kind, entry.scheme or "", entry.source, size)
    if len(found) > 1:
        table.add_row("in all", "", "", "", format_bytes(sum(entry.nbytes for entry in found)))
    print_table(table)


def remove(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="As `cache list` shows it.", show_default=False),
    ],
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Delete stores and conversions; of a store elsewhere only the store's own files."""
    show_log(quiet=quiet)
    freed = registry.remove(*paths)
    removed = {path.resolve(): str(path) for path in paths}
    _report(list(removed.values()), freed, as_json=as_json)


def prune(as_json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Delete what was not finished. What is finished stays: it may be the only copy."""
    show_log(quiet=quiet)
    gone, freed = registry.prune()
    _report([str(entry.path) for entry in gone], freed, as_json=as_json)


def _report(paths: list[str], freed: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"removed": paths, "freed_bytes": freed})
        return
    for path in paths:
        typer.echo(f"removed {path}")
    typer.echo(f"{format_bytes(freed)} are free now")


def _as_json(entry: CacheEntry) -> dict[str, object]:
    return {**asdict(entry), "path": str(entry.path)}
