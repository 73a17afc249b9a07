"""What this package has put on the disk is listed, and pruned where nothing is lost by it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airllm_rs.store import registry

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_old_copies_of_gguf_files_are_named_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRLLM_RS_CACHE", str(tmp_path))
    old = tmp_path / "converted" / "model-bf16-1-0123456789abcdef"
    current = tmp_path / "converted" / "model-gguf-1-0123456789abcdef"
    begun = tmp_path / "converted" / f"{old.name}.partial"
    for directory in (old, current, begun):
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
    kinds = {entry.path: entry.kind for entry in registry.entries()}
    assert kinds == {old: "unused", current: "converted", begun: "unfinished"}
    with caplog.at_level(logging.WARNING, logger="airllm_rs"):
        gone, _ = registry.prune()
    assert [entry.path for entry in gone] == [begun]
    assert old.exists()
    assert caplog.messages == [
        f"{old} is a bf16 copy of a GGUF file, which is read in place: `cache rm` deletes it"
    ]
