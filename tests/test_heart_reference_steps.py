"""The small steps of the reference law, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.heart import reference_steps as steps
from twin.heart.reference import Thresholds
from twin.kernels import Integers


def array(*numbers: int) -> Integers:
    return np.array(numbers, dtype=np.int64)


# --- L3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heat", "idle_ns", "slope", "expected"),
    [
        (10, 999, 65_536, 10),  # below 1,000 ns nothing
        (10, 1_000, 65_536, 9),  # 1 us * 65536 >> 16 = 1
        (10, 1_999, 65_536, 9),  # microseconds are whole
        (10, 3_000, 21_845, 10),  # 3 * 21845 = 65535 >> 16 = 0
        (10, 4_000, 21_845, 9),  # 4 * 21845 = 87380 >> 16 = 1
        (10, 1_000_000, 65_536, 0),  # 1000 would go: never below 0
        (10**12, 3_600 * 10**9, 21_845, 10**12 - 1_199_981_689),  # an hour: 3.6e9 * 21845 = 78642e9, >> 16
        (10**12, 1, 1 << 22, 10**12),
        # 2^62 ns are 4611686018427387 us, at 64 each.
        ((1 << 63) - 1, 1 << 62, 1 << 22, (1 << 63) - 1 - 295_147_905_179_352_768),
        (10**12, 1 << 62, 1 << 22, 0),
        (10**12, 10**18, 0, 10**12),
    ],
)
def test_heat_decays_by_whole_microseconds_times_slope(heat, idle_ns, slope, expected) -> None:
    assert steps.decayed(heat, idle_ns, slope) == expected
    assert steps.decayed(*array(heat, idle_ns, slope)) == expected


@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 63) - 1), st.integers(0, 1 << 22))
def test_decay_in_parts_is_decay_in_one(heat, idle_ns, slope) -> None:
    loss = (idle_ns // 1_000 * slope) >> 16 if idle_ns >= 1_000 else 0
    assert steps.decayed(heat, idle_ns, slope) == max(0, heat - loss)


# --- L2 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "changes", "before", "expected"),
    [
        (4_096, 4_095, 0, 4_096),  # the first pass only looks
        (4_096, 104, 100, 2_048),  # (4 << 16) / 100 = 2621 < 3276
        (1_024, 105, 100, 2_048),  # (5 << 16) / 100 = 3276: not below
        (1_024, 20, 100, 512),  # fewer: growth 0
        (300, 100, 100, 256),  # 150 is too narrow
        (256, 100, 100, 256),
        (4_096, 200, 100, 4_096),
        (3_000, 200, 100, 4_096),
        (321, 0, 1, 256),  # 321 * 50 / 100 = 160
        (641, 0, 1, 320),
    ],
)
def test_a_window_pass_halves_below_five_percent_and_doubles_from_there(window, changes, before, expected) -> None:
    assert steps.resized(window, changes, before) == expected


def test_diversity_counts_adjacent_unequal_words_of_the_window_only() -> None:
    ring = np.zeros(steps.RING, dtype=np.int64)
    ring[:6] = [7, 7, 1, 2, 2, 3]
    # The last four of six are 1 2 2 3.
    assert steps.diversity(ring, 6, 4) == 2
    # All 4,096: what was never written is word 0, so that 0 to 7 counts: 0 7, 7 1, 1 2, 2 3.
    assert steps.diversity(ring, 6, steps.RING) == 4
    # The ring has gone round: entry 4096 is at place 0.
    ring[0] = 9
    assert steps.diversity(ring, steps.RING + 1, 3) == 1


# --- L7, L8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "early", "expected"),
    [
        (10_000, True, 12_500), (10_000, False, 8_000), (3_275, True, 4_093), (3_276, False, 2_620),
        (32_001, True, 40_000), (40_000, True, 40_000), (3_125, False, 2_500), (3_124, False, 2_500),
        (2_500, False, 2_500),
    ],
)  # fmt: skip
def test_an_inference_moves_the_interval_by_a_quarter_up_or_a_fifth_down(interval, early, expected) -> None:
    assert steps.next_interval(interval, 10_000, early) == expected


@given(st.integers(1, (1 << 63) - 1), st.integers(1, (1 << 63) - 1), st.booleans())
def test_intervals_are_those_of_the_equations_at_any_size(interval, t0, early) -> None:
    expected = min(interval * 125 // 100, 4 * t0, (1 << 63) - 1) if early else max(interval * 80 // 100, t0 // 4)
    assert steps.next_interval(interval, t0, early) == expected
    assert steps.next_interval(*array(interval, t0), early) == expected


@pytest.mark.parametrize(
    ("window", "slope_q48", "attempts", "hits", "mode"),
    [
        (4_096, 21_845, 0, 0, 15),  # cv 0.5
        (3_072, 21_845, 0, 0, 15),  # 0.75 itself is high
        (3_071, 21_845, 0, 0, 7),
        (256, 131_072, 0, 0, 7),  # 65536 / 131072 = 0.5
        (256, 131_073, 0, 0, 3),
        (256, 218_453, 0, 0, 3),  # 0.3000005
        (256, 218_454, 0, 0, 2),  # 0.2999991
        (256, 0, 0, 0, 2),  # temporal 0
        (4_096, 0, 20, 18, 8),  # cv 0.1
        (256, 1, 20, 17, 7),  # 1 - 0.85 is a little more than 0.15
        (256, 1, 20, 0, 7),
        (256, 1, 20, 30, 4),  # more hits than attempts: below 0
        ((1 << 63) - 1, (1 << 63) - 1, 1, 1, 8),
    ],
)
def test_modes_by_hand(window, slope_q48, attempts, hits, mode) -> None:
    cv = steps.variation(attempts, hits)
    assert steps.proposed_mode(window, slope_q48, cv, *Thresholds()) == mode


def test_a_mode_is_committed_by_the_fifth_equal_proposal_in_a_row() -> None:
    state = (0, 0, 0)
    modes = []
    for proposal in [15] * 4 + [7] * 4 + [15] * 4 + [7] * 6 + [15, 7, 15]:
        state = steps.voted(*state, proposal)
        modes.append(state[0])
    assert modes == [0] * 16 + [7] * 5
