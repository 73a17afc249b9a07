"""What the extension's readahead tells about itself, and what it leaves behind."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airllm_rs import _core

UNIT = 1 << 16
COUNT = 8
CONTENT = bytes(range(256)) * (UNIT * COUNT // 256)
UNITS = [[(0, unit * UNIT, UNIT, 1)] for unit in range(COUNT)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "units"
    file.write_bytes(CONTENT)
    return file


def test_the_trace_is_on_the_clock_of_python(path: Path) -> None:
    begin = time.monotonic_ns()
    with _core.Readahead(
        [path], UNITS, residents=[1], ring_bytes=4 * UNIT, request_bytes=UNIT // 2, trace=True
    ) as readahead:
        readahead.schedule(range(COUNT))
        for unit in range(COUNT):
            assert bytes(readahead.take(unit)) == CONTENT[unit * UNIT :][:UNIT]
        stats = readahead.stats()
    end = time.monotonic_ns()
    events = readahead.trace()
    assert all(begin <= start <= stop <= end for *_, start, stop in events)
    requests = [event[1:5] for event in events if event[0] == "request"]
    half = UNIT // 2
    wanted = [(at // 2, 0, at * half, half) for at in range(2 * COUNT)]
    assert sorted(requests) == wanted
    leases = sorted(event[1:5] for event in events if event[0] == "lease")
    streamed = [(unit, -1, 0, UNIT) for unit in range(COUNT) if unit != 1]
    assert [lease for lease in leases if lease[0] != 1] == streamed
    waits = [event for event in events if event[0] == "wait"]
    assert len(waits) == stats["waits"]
    assert stats["takes"] == COUNT
    assert stats["trace_dropped"] == 0
    assert readahead.trace() == []


def test_settings_are_told_for_each_disk(path: Path) -> None:
    remembered = {"request_bytes": 2 << 20, "queue_depth": 4, "device_gbps": 1.5}
    with _core.Readahead(
        [path],
        UNITS,
        ring_bytes=2 * UNIT,
        request_bytes=2 << 20,
        queue_depth=4,
        tune=False,
        expected_gbps=1.5,
    ) as readahead:
        readahead.schedule(range(COUNT))
        for unit in range(COUNT):
            readahead.take(unit)
        stats = readahead.stats()
    assert {key: stats[key] for key in remembered} == remembered  # type: ignore[literal-required]
    assert stats["is_tuned"]
    assert stats["devices"] == [{**remembered, "is_tuned": True, "bytes_read": len(CONTENT)}]
    with _core.Readahead([path], UNITS, ring_bytes=2 * UNIT) as readahead:
        assert not readahead.stats()["is_tuned"]


@pytest.mark.parametrize(
    "option", [{"expected_gbps": -1.0}, {"silence_s": -1.0}, {"queue_depth": 0}]
)
def test_options_without_sense_are_refused(option: dict[str, float], path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        _core.Readahead([path], UNITS, ring_bytes=UNIT, **option)  # type: ignore[arg-type]


def test_a_silent_device_is_named_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, "airllm_rs.readahead"),
        _core.Readahead(
            [path], UNITS, ring_bytes=UNIT, latency_us=400_000, silence_s=0.05
        ) as readahead,
    ):
        readahead.schedule([0])
        assert len(readahead.take(0)) == UNIT
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]


def test_warnings_are_seen_where_nobody_has_set_up_logging(path: Path) -> None:
    code = f"""
from airllm_rs import _core
with _core.Readahead(
    [{str(path)!r}], [[(0, 0, {UNIT}, 1)]], ring_bytes={UNIT}, latency_us=400_000, silence_s=0.05
) as readahead:
    readahead.schedule([0])
    readahead.take(0)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == ""
    assert said.stderr.splitlines() == [f"no read has ended for 0 s; waiting for {path}"]


def test_a_device_that_does_not_answer_is_left_with_a_warning(path: Path) -> None:
    code = f"""
import sys, warnings
from airllm_rs import _core
readahead = _core.Readahead(
    [{str(path)!r}], [[(0, 0, {UNIT}, 1)]], ring_bytes={UNIT}, latency_us=60_000_000
)
readahead.schedule([0])
while not readahead.stats()["requests"]:
    pass
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    readahead.close()
print([str(warning.message) for warning in caught])
sys.stdout.flush()
import os
os._exit(0)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert "did not answer within a second" in run.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_use_after_fork_is_an_error_and_not_a_hang(path: Path) -> None:
    code = f"""
import os
from airllm_rs import _core
readahead = _core.Readahead([{str(path)!r}], {UNITS!r}, ring_bytes={2 * UNIT}, trace=True)
readahead.schedule([0, 1, 2])
lease = readahead.take(0)
child = os.fork()
if child == 0:
    wrong = 0
    for use in (
        lambda: readahead.take(1), lambda: readahead.schedule([2]),
        lambda: readahead.demand([2]), lambda: readahead.evict([2]),
    ):
        try:
            use()
        except RuntimeError:
            wrong += 1
    readahead.trace()
    readahead.stats()
    readahead.close()
    del lease, readahead
    os._exit(wrong)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 4, status
assert len(readahead.take(1)) == {UNIT}
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=False, timeout=60
    )
    assert run.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_opening_and_closing_leaves_nothing(path: Path) -> None:
    def counts() -> tuple[int, int]:
        tasks = list(Path("/proc/self/task").iterdir())
        return len(list(Path("/proc/self/fd").iterdir())), len(tasks)

    before = counts()
    for turn in range(500):
        readahead = _core.Readahead([path], UNITS, ring_bytes=3 * UNIT)
        readahead.schedule(range(COUNT), cyclic=True)
        lease = readahead.take(0)
        if turn % 2:
            readahead.close()
        del readahead
        assert bytes(lease) == CONTENT[:UNIT]
        del lease
    # The kernel counts a thread for a moment after it was joined; one of 500 would stay.
    deadline = time.monotonic() + 30
    while counts() != before and time.monotonic() < deadline:
        pass
    assert counts() == before


# Prints what is locked, and what the log says, in a process that may lock so many bytes.
LOCKING = f"""
import ctypes, logging, resource, struct, sys
from airllm_rs import _core
path, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
libc = ctypes.CDLL(None, use_errno=True)
head = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
held = ctypes.create_string_buffer(24)
assert libc.capget(head, held) == 0
effective, *rest = struct.unpack("6I", held)
without_ipc_lock = struct.pack("6I", effective & ~(1 << 14), *rest)
assert libc.capset(head, without_ipc_lock) == 0
logging.basicConfig(format="%(message)s", stream=sys.stdout)
with _core.Readahead(
    [path], {UNITS!r}, residents=range({COUNT}), ring_bytes=0, mlock=True, engine="buffered"
) as readahead:
    for unit in range({COUNT}):
        assert bytes(readahead.take(unit)) == bytes(range(256)) * {UNIT // 256}
    stats = readahead.stats()
    assert stats["resident_bytes_loaded"] == {COUNT * UNIT}
    print(stats["locked_bytes"], stats["arena_resident_bytes"])
"""


def locking(path: Path, limit: int) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", LOCKING, str(path), str(limit)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return run.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="locks memory on Linux only")
def test_weights_are_locked_where_the_limit_allows(path: Path) -> None:
    resource = pytest.importorskip("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY and hard < 4 * COUNT * UNIT:
        pytest.skip("this user may lock no memory")
    (said,) = locking(path, 4 * COUNT * UNIT)
    locked, touched = map(int, said.split())
    assert locked == touched >= COUNT * UNIT


@pytest.mark.skipif(sys.platform != "linux", reason="locks memory on Linux only")
def test_where_locking_is_refused_one_line_says_what_to_change(path: Path) -> None:
    warning, said = locking(path, 4096)
    assert "weights are not locked in memory" in warning
    assert "ulimit -l" in warning
    assert said.split()[0] == "0"
