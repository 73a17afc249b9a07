"""Files that several processes write are whole, and each write of one that fails leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import airllm_rs
from airllm_rs.checkpoint.durable import write_json

WRITES = """
import sys
from pathlib import Path
from airllm_rs.checkpoint.durable import write_json
sys.stdin.read(1)
for number in range(60):
    write_json(Path(sys.argv[1]), {"who": sys.argv[2] * (1 + number % 7 * 999)}, is_locked=False)
"""


def test_what_two_processes_write_is_one_of_both(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    environment = {**os.environ, "PYTHONPATH": str(Path(airllm_rs.__file__).parents[1])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES, str(path), name],
            env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in "abc"
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("!")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert set(json.loads(path.read_text())["who"]) < {"a", "b", "c"}
    assert [writer.communicate()[1] for writer in writers] == ["", "", ""]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert [found.name for found in tmp_path.iterdir()] == ["known.json"]


@pytest.mark.parametrize("is_locked", [True, False])
def test_what_cannot_be_written_leaves_what_was_there(is_locked: bool, tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    write_json(path, {"a": 1}, is_locked=is_locked)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()}, is_locked=is_locked)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["known.json"]
