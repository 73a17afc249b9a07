"""The command line: `airllm-rs`, also `python -m airllm_rs`."""

from airllm_rs.cli.interruption import leaving_at_once

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments name, and exit."""
    with leaving_at_once():  # half a second, in which an exception would be a traceback
        from airllm_rs.cli.application import run_app
    run_app()
