"""Amounts of memory as people write them: ``3GiB``, ``60%``, ``1.5 GB``."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kib": 1 << 10, "kb": 10**3,
    "m": 1 << 20, "mib": 1 << 20, "mb": 10**6,
    "g": 1 << 30, "gib": 1 << 30, "gb": 10**9,
    "t": 1 << 40, "tib": 1 << 40, "tb": 10**12,
}  # fmt: skip
# Whoever writes 3 means GiB. Numbers in a program are bytes, but who would count out less than a
# page?
_LEAST_WITHOUT_UNIT = 1 << 20
_LEAST_NUMBER = 1 << 12
# No machine has more, and sums of amounts still fit into 64 bits.
_MOST = 1 << 60
_AMOUNT = re.compile(r"(\d{1,99}(?:\.\d{1,99})?|\.\d{1,99}) ?([a-z]*|%)", re.ASCII)


def parse_memory(text: str | int, option: str, *, whole: int) -> int:
    """Return the bytes that an amount of memory names, which a small number without a unit is not.

    Args:
        text: ``3221225472``, ``"3GiB"``, ``"3.2 GB"``, ``"60%"``.
        option: What the amount is for, for messages.
        whole: What a share is a share of.

    Raises:
        ValueError: if it names nothing above zero, or is too small to be meant as bytes.
    """
    nbytes = parse_bytes(text, option, whole=whole)
    is_bare = isinstance(text, int) or text.strip().replace(".", "").isdecimal()
    least = _LEAST_NUMBER if isinstance(text, int) else _LEAST_WITHOUT_UNIT
    if is_bare and nbytes < least:
        plural = "byte" if nbytes == 1 else "bytes"
        raise ValueError(f"{option}={text!r} is {nbytes} {plural}: give a unit, e.g. '3GiB'")
    return nbytes


def parse_bytes(text: str | int, option: str, *, whole: int | None = None) -> int:
    """Return the bytes that ``text`` names: a number, a number with a unit, or a share.

    Args:
        text: ``3221225472``, ``"3GiB"``, ``"3.2 GB"``, ``"60%"``.
        option: What the amount is for, for messages.
        whole: What a share is a share of; without it there are none.

    Raises:
        ValueError: if it names nothing above zero, or more than any machine has.
    """
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise ValueError(f"{option}={text!r}: use bytes as a number, or a string such as '3GiB'")
    if isinstance(text, int):
        if text < 1:
            raise ValueError(f"{option}={text}: use 1 or more")
        return _not_too_much(text, text, option)
    match = _AMOUNT.fullmatch(text.strip().lower())
    shares = " or '60%'" if whole is not None else ""
    if match is None or (match[2] == "%" and whole is None):
        raise ValueError(f"{option}={text!r}: use an amount such as '3GiB'{shares}")
    if match[2] == "%":
        assert whole is not None, "checked above"
        share = float(match[1])
        if not 0 < share <= 100:
            raise ValueError(f"{option}={text!r}: use a share above 0% and up to 100%")
        return max(int(whole * share / 100), 1)
    if match[2] not in _UNITS:
        raise ValueError(f"{option}={text!r}: {match[2]!r} is no unit; use KiB, MiB, GiB or GB")
    nbytes = int(Fraction(match[1]) * _UNITS[match[2]])
    if nbytes < 1:
        raise ValueError(f"{option}={text!r}: use 1 byte or more")
    return _not_too_much(nbytes, text, option)


def _not_too_much(nbytes: int, text: str | int, option: str) -> int:
    if nbytes > _MOST:
        raise ValueError(f"{option}={text!r} is more than any machine has: use at most 1048576TiB")
    return nbytes


def format_bytes(nbytes: int) -> str:
    """Return an amount that `parse_bytes` reads and that is at most 1 % larger, never less."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size:
            hundredths = -(-nbytes * 100 // size)
            whole, part = divmod(hundredths, 100)
            return f"{whole}.{part:02d}{unit}" if part else f"{whole}{unit}"
    return f"{nbytes}B"
