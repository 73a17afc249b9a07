"""The machine that a benchmark's numbers belong to, as `doctor` sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airllm_rs.cli.findings import examine

if TYPE_CHECKING:
    from pathlib import Path


def machine(path: Path) -> dict[str, object]:
    """Return what a reader of the numbers needs to know; ``path`` is a file that was read."""
    facts = {finding.name: finding.facts for finding in examine(path)}
    place, versions = facts["file_system"], facts["versions"]
    assert isinstance(place, dict), "a table"
    assert isinstance(versions, dict), "a table"
    return {
        "kernel": versions["kernel"],
        "file_system": {name: place[name] for name in ("kind", "mount", "source")},
        "device": place["device"],
        "huge_pages": facts["huge_pages"],
        "versions": {
            name: version
            for name, version in versions.items()
            if name not in ("build_profile", "kernel")
        },
        "build_profile": versions["build_profile"],
        "cpu": facts["cpu"],
        "memory": facts["memory"],
        "memlock_bytes": facts["memlock_bytes"],
        "cgroup": facts["cgroup"],
        "engines": facts["engines"],
        "load_average": list(os.getloadavg()),
    }
