"""Heat and tiers: how blocks warm up and cool down, and when they move between tiers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.kernels import Integers, exp
from twin.pool import tiers
from twin.pool.layout import COLD, FROZEN, H_HEAT, H_SIZE, H_STAMP, HOT, UNIT_CELLS, WARM

heats = st.integers(0, tiers.HEAT_MAX)
slopes = st.integers(0, 65_536)


def block(tier: int = WARM, heat: int = 0, stamp: int = 0, size: int = 100) -> Integers:
    cells = np.zeros(UNIT_CELLS, dtype=np.int64)
    cells[H_SIZE], cells[H_HEAT], cells[H_STAMP] = size * 4 + tier, heat, stamp
    return cells


@given(heats, st.integers(-(1 << 40), 1 << 62), slopes)
def test_cooling_never_warms_and_never_falls_below_zero(heat, idle_us, slope) -> None:
    assert 0 <= tiers.decayed(heat, idle_us, slope) <= heat


@given(heats, st.integers(1, 1 << 50), st.integers(1, 65_536))
def test_more_time_and_a_steeper_slope_never_leave_more_heat(heat, idle_us, slope) -> None:
    less = tiers.decayed(heat, idle_us // 2, slope)
    # Every step rounds down by less than one part of 2^16 of an execution, and the series is within 0.3 %.
    assert tiers.decayed(heat, idle_us, slope) <= less + heat // 300 + 100
    assert tiers.decayed(heat, idle_us, slope) <= tiers.decayed(heat, idle_us, slope // 2) + heat // 300 + 100


@given(heats, st.integers(0, 100_000), st.integers(1, 96))
def test_cooling_follows_the_equation_it_is_meant_to_solve(heat, idle_us, slope) -> None:
    exact = (heat + tiers.KNEE) * exp(-idle_us * slope / tiers.KNEE) - tiers.KNEE
    assert abs(tiers.decayed(heat, idle_us, slope) - max(exact, 0.0)) <= 0.01 * (heat + tiers.KNEE)


def test_a_cold_block_loses_the_slope_and_one_at_the_knee_twice_that_in_a_microsecond() -> None:
    assert tiers.decayed(1_000, 1, 6) == 1_000 - 6
    assert tiers.KNEE - tiers.decayed(tiers.KNEE, 1, 6) == 12


@pytest.mark.parametrize("idle_us", [1, 3_600_000_000, 1 << 45, 1 << 62])
def test_after_an_hour_or_more_nothing_is_left_of_any_heat(idle_us) -> None:
    left = tiers.decayed(tiers.HEAT_MAX, idle_us, 6)
    assert (left == 0) == (idle_us > 1)
    assert tiers.decayed(tiers.HEAT_MAX, idle_us, 0) == tiers.HEAT_MAX


@given(heats, st.integers(0, 1 << 40), slopes)
def test_one_step_is_what_the_general_way_does_up_to_the_longest_step(heat, idle_us, slope) -> None:
    idle_us = min(idle_us, int(tiers.longest_step(slope)))
    assert tiers.cooled(heat, idle_us * slope) == tiers.decayed(heat, idle_us, slope)


def test_a_tier_moves_one_step_up_above_100_accesses_and_one_down_below_10() -> None:
    one = tiers.ONE_EXECUTION
    assert [int(tiers.promoted(tier, 100 * one + 1)) for tier in range(4)] == [HOT, HOT, WARM, COLD]
    assert [int(tiers.promoted(tier, 100 * one)) for tier in range(4)] == [HOT, WARM, COLD, FROZEN]
    assert [int(tiers.demoted(tier, 10 * one - 1)) for tier in range(4)] == [WARM, COLD, FROZEN, FROZEN]
    assert [int(tiers.demoted(tier, 10 * one)) for tier in range(4)] == [HOT, WARM, COLD, FROZEN]
    assert [int(tiers.foretold(tier)) for tier in range(4)] == [HOT, WARM, WARM, COLD]


def test_touching_adds_one_access_and_promotes_at_the_hundred_and_first() -> None:
    cells = block()
    moves = [int(tiers.touch(cells, 0, 5, 6)) for _ in range(101)]
    assert moves == [0] * 100 + [-1]
    assert cells[H_HEAT] == 101 * tiers.ONE_EXECUTION
    assert cells[H_STAMP] == 5
    assert cells[H_SIZE] == 100 * 4 + HOT


def test_touching_saturates_instead_of_overflowing() -> None:
    cells = block(heat=tiers.HEAT_MAX)
    tiers.touch(cells, 0, 0, 0)
    assert cells[H_HEAT] == tiers.HEAT_MAX


def test_sweeping_an_unused_block_takes_it_down_to_frozen_and_keeps_its_size() -> None:
    cells = block(HOT, 20 * tiers.ONE_EXECUTION)
    moves = [int(tiers.sweep(cells, 0, now, 6)) for now in range(100_000, 700_000, 100_000)]
    assert moves == [1, 1, 1, 0, 0, 0]
    assert cells[H_SIZE] == 100 * 4 + FROZEN
    assert cells[H_HEAT] == 0


def test_a_clock_that_goes_backwards_neither_cools_nor_moves_the_stamp_back() -> None:
    cells = block(heat=50 * tiers.ONE_EXECUTION, stamp=1_000)
    tiers.touch(cells, 0, 10, 6)
    tiers.sweep(cells, 0, 10, 6)
    assert cells[H_HEAT] == 51 * tiers.ONE_EXECUTION
    assert cells[H_STAMP] == 1_000
