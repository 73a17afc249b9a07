"""Amounts are read as people write them, and written so that they can be read."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airllm_rs.memory import format_bytes, parse_bytes, parse_memory


@given(st.integers(1, 1 << 50))
def test_printed_amounts_read_back_as_no_less(nbytes: int) -> None:
    back = parse_bytes(format_bytes(nbytes), "memory")
    assert nbytes <= back <= nbytes * 1.011


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (5, 5), ("5", 5), ("3GiB", 3 << 30), ("3gib", 3 << 30), ("3 G", 3 << 30),
        ("1.5GB", 1_500_000_000), (" 96MiB ", 96 << 20), ("60%", 600), ("100%", 1000),
        ("0.5KiB", 512), ("7b", 7),
    ],
)  # fmt: skip
def test_amounts_are_read(text: str | int, nbytes: int) -> None:
    assert parse_bytes(text, "memory", whole=1000) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        "", "GiB", "-3GiB", "3 apples", "0", 0, -1, "0%", "101%", "1e9", "3GiBs", "auto", "9" * 100,
        True,
    ],
)  # fmt: skip
def test_nonsense_is_no_amount(text: str | int) -> None:
    with pytest.raises(ValueError, match="memory="):
        parse_bytes(text, "memory", whole=1000)


@pytest.mark.parametrize("text", ["99999999999999999999GiB", "9" * 99 + "TB", 1 << 61])
def test_more_than_any_machine_has_is_no_amount(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"memory=.* is more than any machine has"):
        parse_bytes(text, "memory")
    assert parse_bytes("1048576TiB", "memory") == 1 << 60


@pytest.mark.parametrize("bare", ["3", " 3.5 ", "1048575", 3, 4095])
def test_a_small_number_without_a_unit_is_no_memory(bare: str | int) -> None:
    with pytest.raises(ValueError, match=r"memory=.*: give a unit, e\.g\. '3GiB'$"):
        parse_memory(bare, "memory", whole=1 << 40)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1048576", 1 << 20), (4096, 4096), ("3B", 3), ("3KiB", 3072), ("50%", 500), ("3k", 3072)],
)
def test_a_number_that_may_be_meant_is_memory(text: str | int, nbytes: int) -> None:
    assert parse_memory(text, "memory", whole=1000) == nbytes


@given(st.text(max_size=12))
def test_any_text_is_an_amount_or_refused_in_one_line(text: str) -> None:
    try:
        assert parse_bytes(text, "memory", whole=1 << 30) >= 1
    except ValueError as error:
        assume("\n" not in text)
        assert "\n" not in str(error)  # noqa: PT017 either outcome is right
