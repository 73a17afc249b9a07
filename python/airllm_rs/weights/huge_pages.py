"""How much of an arena the kernel puts into huge pages, found by making one."""

from __future__ import annotations

from airllm_rs._core import Arena

_TRIED_BYTES = 32 << 20
_PAGE = 4096


def huge_page_share() -> float:
    """Touch every page of a small arena, and return the share of it that is in huge pages."""
    arena = Arena(_TRIED_BYTES)
    with memoryview(arena) as view:
        view[::_PAGE] = bytes(len(view) // _PAGE)
    return arena.huge_page_bytes / arena.nbytes
