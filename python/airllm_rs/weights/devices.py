"""What was found out about the disks: request size, queue depth and rate, kept per device."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from airllm_rs.checkpoint.cache_directory import cache_directory
from airllm_rs.checkpoint.durable import write_json

log = logging.getLogger(__name__)

_SYS = Path("/sys/dev/block")
_LEAST, _MOST = 4096, 1 << 30
_RATES = 5


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """How a device is best read."""

    request_bytes: int
    queue_depth: int
    gbps: float
    """10^9 bytes a second that it gave: the best of the latest few runs, as others were disturbed.

    Another rate for longer means another device, or a lasting load.
    """


def recall(path: str | os.PathLike[str]) -> DeviceSettings | None:
    """Return what is known about the device that ``path`` lies on."""
    try:
        entry = _read().get(identity(path))
    except OSError:
        return None  # whoever opens the file says so
    if not isinstance(entry, dict):
        return None
    rates = _rates(entry)
    try:
        found = DeviceSettings(
            int(entry["request_bytes"]), int(entry["queue_depth"]), max(rates, default=0.0)
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    is_sane = _LEAST <= found.request_bytes <= _MOST and 1 <= found.queue_depth <= 4096
    return found if is_sane and found.gbps > 0 else None


def remember(path: str | os.PathLike[str], settings: DeviceSettings) -> None:
    """Keep what a run found out about the device that ``path`` lies on."""
    try:
        known, device = _read(), identity(path)
        rates = [*_rates(known.get(device)), settings.gbps][-_RATES:]
        known[device] = {**asdict(settings), "gbps": rates}
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(), known, indent=1, is_locked=False)
    except OSError as error:
        # a home that cannot be written to costs a few reads at the next start, nothing else
        log.debug("device not recorded: %s", error)


def identity(path: str | os.PathLike[str]) -> str:
    """Return what tells one device from another: number, size and model, where there are any."""
    number = os.stat(path).st_dev  # noqa: PTH116 - a path of any kind
    name = f"{os.major(number)}:{os.minor(number)}"
    about = [name]
    for detail in ("size", "device/model", "../size", "../device/model"):
        try:
            about.append((_SYS / name / detail).read_text(encoding="utf-8").strip())
        except OSError:
            continue
    return " ".join(about)


def _rates(entry: object) -> list[float]:
    found = entry.get("gbps") if isinstance(entry, dict) else None
    listed = found if isinstance(found, list) else [found]
    return [rate for rate in listed if isinstance(rate, float) and 0 < rate < math.inf]


def _file() -> Path:
    return cache_directory() / "devices.json"


def _read() -> dict[str, object]:
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
