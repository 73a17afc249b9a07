"""The collector of garbage, paused where hundreds of thousands of objects are made to stay."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def paused_collection() -> Iterator[None]:
    """Keep the collector from looking through what is being made, again and again.

    The tensors of a large mixture of experts are a hundred thousand objects, none of them garbage:
    two thirds of the time went into finding that out.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
