"""The command line: `airllm-rs`, also `python -m airllm_rs`."""

from airllm_rs.cli.application import app, main

__all__ = ["app", "main"]
