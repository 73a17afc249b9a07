"""`airllm-rs doctor`: what this machine offers, with what to change."""

from pathlib import Path
from typing import Annotated

import typer

from airllm_rs.cli.findings import examine
from airllm_rs.cli.options import JsonFlag
from airllm_rs.cli.output import console, print_json


def doctor(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="Where models are or will be; by default our cache directory.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what this machine offers, with what to change."""
    findings = examine(path)
    if as_json:
        facts = {finding.name: finding.facts for finding in findings}
        told = [
            {"name": finding.name, "ok": finding.ok, "text": finding.text, "hint": finding.hint}
            for finding in findings
        ]
        print_json({**facts, "findings": told})
        return
    shown = console()
    width = max(len(finding.label) for finding in findings)
    for finding in findings:
        mark = "[green]ok  [/]" if finding.ok else "[yellow]hint[/]"
        shown.print(mark, end=" ", markup=True)
        shown.print(f"{finding.label:{width}}  {finding.text}", soft_wrap=True)
        if finding.hint:
            shown.print(f"     {'':{width}}  → {finding.hint}", soft_wrap=True)
