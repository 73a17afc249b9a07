"""A model whose files are on two disks is read from both at the same time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from pathlib import Path

LAYERS, ITEMS = 6, 300_000

# Two disks that nobody else sees: they go with this process. Reads take 20 ms at least, so that
# those of one disk are under way when the other's are asked for.
SCRIPT = """
import json, subprocess, sys
from pathlib import Path
root, engine = Path(sys.argv[1]), sys.argv[2]
for disk in ("one", "two"):
    image = root / f"{disk}.img"
    mounted = root / disk
    mounted.mkdir()
    command = ["mount", "-o", "loop", str(image), str(mounted)]
    if subprocess.run(command, capture_output=True).returncode:
        sys.exit(77)
    for file in (root / "model").glob(f"*-{disk}.safetensors"):
        moved = mounted / file.name
        moved.write_bytes(file.read_bytes())
        file.unlink()
        file.symlink_to(moved)
subprocess.run(["sync", "-f", str(root / "one")], check=True)
subprocess.run(["sync", "-f", str(root / "two")], check=True)

from safetensors.numpy import load_file
from airllm_rs import _core

found = _core.Checkpoint.open(root / "model")
names = sorted(found.names(), key=lambda name: int(name.split(".")[0]))
units = []
for name in names:
    _, _, file, offset, nbytes = found.tensor(name)
    units.append([(file, offset, nbytes, 4)])
units.append([part for unit in units[:2] for part in unit])  # one on both disks
with _core.Readahead(
    found.files, units, ring_bytes=16 << 20, engine=engine, trace=True, latency_us=20_000
) as readahead:
    order = [*range(len(units))] * 2
    readahead.schedule(order)
    wanted = {}
    for file in found.files:
        wanted.update(load_file(file))
    blobs = [wanted[name].tobytes() for name in names]
    blobs.append(blobs[0] + blobs[1])
    for unit in order:
        taken = bytes(readahead.take(unit))
        parts, at = [], readahead.offsets(unit)
        got = b"".join(taken[start:][:part[2]] for start, part in zip(at, units[unit]))
        assert got == blobs[unit], unit
    devices = readahead.stats()["devices"]
    requests = [event for event in readahead.trace() if event[0] == "request"]
spans = {disk: [e[5:] for e in requests if e[2] == disk] for disk in (0, 1)}
both = sum(a < d and c < b for a, b in spans[0] for c, d in spans[1])
print(json.dumps({"devices": [device["bytes_read"] for device in devices], "both": both}))
"""


@pytest.mark.parametrize("engine", ["uring", "direct", "buffered"])
@pytest.mark.skipif(sys.platform != "linux", reason="mounts images")
def test_both_disks_are_busy_at_once_and_the_bytes_are_the_bytes(
    engine: str, tmp_path: Path
) -> None:
    if not all(shutil.which(tool) for tool in ("mkfs.ext4", "unshare", "mount", "sync")):
        pytest.skip("a tool is missing")
    for disk in ("one", "two"):
        image = tmp_path / f"{disk}.img"
        with image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
    model = tmp_path / "model"
    model.mkdir()
    chance = np.random.default_rng(0)
    weights: dict[str, dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]] = {}
    for layer in range(LAYERS):
        disk = ("one", "two")[layer % 2]
        tensor = chance.standard_normal(ITEMS + layer).astype(np.float32)
        weights.setdefault(f"part-{disk}.safetensors", {})[f"{layer}.weight"] = tensor
    for name, tensors in weights.items():
        save_file(tensors, model / name)
    index = {tensor: name for name, tensors in weights.items() for tensor in tensors}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    command = ["unshare", "--mount", sys.executable, "-c", SCRIPT, str(tmp_path), engine]
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode == 77:
        pytest.skip("cannot mount images")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    # each has half of the layers, twice, and its half of the unit on both
    assert len(said["devices"]) == 2
    assert min(said["devices"]) > LAYERS * ITEMS * 4
    assert said["both"] > 0
