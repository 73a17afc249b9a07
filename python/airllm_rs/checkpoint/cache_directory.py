"""Where this package keeps what it makes: converted checkpoints, measurements."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "AIRLLM_RS_CACHE"


def cache_directory() -> Path:
    """Return the directory, which need not exist; ``AIRLLM_RS_CACHE`` overrides the platform's."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        base = Path(local) if local else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        xdg = os.environ.get("XDG_CACHE_HOME", "")
        # the specification says to ignore a relative one
        base = Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache"
    return base / "airllm_rs"
