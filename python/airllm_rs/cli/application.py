"""The commands, put together."""

from typing import Annotated

import typer

from airllm_rs.cli.bench_decode import bench_decode
from airllm_rs.cli.bench_io import bench_io
from airllm_rs.cli.bench_kernels import bench_kernels
from airllm_rs.cli.cache import list_entries, prune, remove
from airllm_rs.cli.doctor import doctor
from airllm_rs.cli.failures import Commands, at_once, quiet_pipe
from airllm_rs.cli.inspect import inspect
from airllm_rs.cli.make_model import make_model
from airllm_rs.cli.plan import plan
from airllm_rs.cli.run import run
from airllm_rs.cli.shard import shard
from airllm_rs.cli.verify import verify

PROGRAM = "airllm-rs"

app = typer.Typer(
    name=PROGRAM,
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich's help takes 0.15 s more to import, and its boxes cut long lines
    pretty_exceptions_enable=False,
    add_completion=False,
)
bench = typer.Typer(name="bench", help="Measure, and make what is measured.", no_args_is_help=True)
cache = typer.Typer(name="cache", help="What airllm-rs has put on the disk.", no_args_is_help=True)
app.command()(run)
app.command()(shard)
app.command()(verify)
app.command()(inspect)
app.command()(plan)
app.command()(doctor)
app.add_typer(bench)
app.add_typer(cache)
cache.command("list")(list_entries)
cache.command("rm")(remove)
cache.command("prune")(prune)
bench.command("io")(bench_io)
bench.command("decode")(bench_decode)
bench.command("kernels")(bench_kernels)
bench.command("make-model")(make_model)


def run_app() -> None:
    """Run the command that the arguments name, and exit."""
    with at_once(), quiet_pipe():
        app(prog_name=PROGRAM)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"{PROGRAM} {version('airllm_rs')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run language models that are larger than memory."""
