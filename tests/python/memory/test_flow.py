"""The ring follows what decoding waited for."""

from __future__ import annotations

import pytest

from airllm_rs.memory.flow import Flow, RingLimit, next_limit

MIB = 1 << 20
MOST = 192 * MIB
COMPUTING = Flow(8, 10.0, stall_s=0.05, ring_full_s=8.0)
READING = Flow(8, 10.0, stall_s=7.0, ring_full_s=0.1)
UNEVEN = Flow(8, 10.0, stall_s=1.0, ring_full_s=4.0)


def test_the_ring_is_halved_while_computing_is_the_limit() -> None:
    limit, seen = RingLimit(MOST), []
    for _ in range(5):
        limit = next_limit(limit, MOST, limit.nbytes, COMPUTING)
        seen.append(limit.nbytes // MIB)
    assert seen == [96, 48, 32, 32, 32]


def test_a_ring_below_the_limit_is_what_is_halved() -> None:
    assert next_limit(RingLimit(MOST), MOST, 100 * MIB, COMPUTING) == RingLimit(50 * MIB)
    assert next_limit(RingLimit(MOST), MOST, 8 * MIB, COMPUTING) == RingLimit(8 * MIB)


def test_a_ring_that_the_plan_cannot_do_without_is_left_alone() -> None:
    assert next_limit(RingLimit(96 * MIB), MOST, 150 * MIB, COMPUTING) == RingLimit(96 * MIB)


@pytest.mark.parametrize("ring", [MOST, 150 * MIB])
def test_while_reading_is_the_limit_the_ring_is_as_large_as_ever(ring: int) -> None:
    assert next_limit(RingLimit(MOST), MOST, ring, READING) == RingLimit(MOST)
    assert next_limit(RingLimit(48 * MIB), MOST, 48 * MIB, READING) == RingLimit(MOST)


def test_a_ring_that_was_too_small_is_not_tried_again() -> None:
    grown = next_limit(RingLimit(96 * MIB), MOST, 96 * MIB, UNEVEN)
    assert grown == RingLimit(MOST, too_small=96 * MIB)
    assert next_limit(grown, MOST, MOST, COMPUTING) == grown


@pytest.mark.parametrize("flow", [Flow(), Flow(2, 1.0, 0.0, 1.0), Flow(8, 10.0, 0.3, 5.0)])
def test_what_is_not_clear_changes_nothing(flow: Flow) -> None:
    for limit in (RingLimit(MOST), RingLimit(96 * MIB, 48 * MIB)):
        assert next_limit(limit, MOST, limit.nbytes, flow) == limit
