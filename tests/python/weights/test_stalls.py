"""A device that answers nothing: others run meanwhile, and Ctrl-C and closing end the wait."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airllm_rs.weights.engines import probe_engines

if TYPE_CHECKING:
    from pathlib import Path

UNIT = 1 << 16

# A read takes an hour. The warning says that the main thread is inside `take`; whoever notices it
# there is another thread, which needs the interpreter to go on.
SCRIPT = """
import json, logging, os, signal, sys, threading, warnings
from airllm_rs import _core

class Told(logging.Handler):
    def emit(self, record):
        is_waiting.set()

def elsewhere():
    is_waiting.wait()
    said["counted"] = sum(1 for _ in range(100_000))
    {act}

signal.signal(signal.SIGINT, signal.default_int_handler)
is_waiting, said = threading.Event(), {{}}
logging.getLogger("airllm_rs").addHandler(Told())
readahead = _core.Readahead(
    [sys.argv[1]], [[(0, 0, {unit}, 1)]], ring_bytes={unit}, engine=sys.argv[2],
    latency_us=3_600_000_000, silence_s=0.05,
)
readahead.schedule([0])
warnings.simplefilter("ignore")
other = threading.Thread(target=elsewhere)
other.start()
try:
    readahead.take(0)
except BaseException as error:
    said["raised"] = type(error).__name__
other.join()
readahead.close()
said["closed"] = readahead.closed
print(json.dumps(said), flush=True)
os._exit(0)  # the thread that waits for the device would be left behind anyway
"""


@pytest.mark.parametrize("engine", ["uring", "direct", "buffered"])
@pytest.mark.parametrize(
    ("act", "raised"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGINT)", "KeyboardInterrupt", id="Ctrl-C"),
        pytest.param("readahead.close()", "RuntimeError", id="close"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="engines of Linux; sends SIGINT")
def test_a_wait_without_end_lets_others_run_and_is_ended(
    act: str, raised: str, engine: str, tmp_path: Path
) -> None:
    file = tmp_path / "units"
    file.write_bytes(bytes(UNIT))
    if not any(probe.engine == engine and probe.ok for probe in probe_engines(file)):
        pytest.skip(f"{engine} cannot read here")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(act=act, unit=UNIT), str(file), engine],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # an hour if it hangs
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"counted": 100_000, "raised": raised, "closed": True}
