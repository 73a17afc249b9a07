"""What the page cache holds of a file: count it, drop it, read it in."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_MAP_FAILED = ctypes.c_void_p(-1).value
READ_BYTES = 16 << 20


def cached_bytes(paths: Iterable[Path]) -> int:
    """Return how many bytes of the files the page cache holds, by mincore(2)."""
    return sum(_cached_bytes(path) for path in paths)


def _cached_bytes(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        nbytes = os.fstat(fd).st_size
        if nbytes == 0:
            return 0
        address = _libc.mmap(None, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "mmap", str(path))
        try:
            pages = ctypes.create_string_buffer(-(-nbytes // mmap.PAGESIZE))
            if _libc.mincore(address, nbytes, pages):
                raise OSError(ctypes.get_errno(), "mincore", str(path))
        finally:
            _libc.munmap(address, nbytes)
        # Only the lowest bit of each byte says "present".
        return sum(byte & 1 for byte in pages.raw) * mmap.PAGESIZE
    finally:
        os.close(fd)


def drop(paths: Iterable[Path]) -> None:
    """Drop the files from the page cache, and refuse to call what stays there cold."""
    wanted = list(paths)
    for path in wanted:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # dirty pages cannot be dropped
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    total = sum(path.stat().st_size for path in wanted)
    left = cached_bytes(wanted)
    # A few pages may be pinned for an instant; a hundredth cannot change a time.
    if left > total // 100:
        raise SystemExit(f"{left} of {total} bytes stay in the page cache: who maps {wanted[0]}?")


def read_in(paths: Iterable[Path]) -> int:
    """Read the files once, so that the page cache holds them at our expense; return the bytes."""
    read = 0
    buffer = bytearray(READ_BYTES)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while nbytes := file.readinto(buffer):
                read += nbytes
    return read
