"""Inference under the reference law, worked out by hand and against the obvious way to calculate it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.heart import q48
from twin.heart import reference_inference as inference
from twin.heart import reference_steps as steps
from twin.kernels import MODE, Integers

LARGEST = (1 << 64) - 1


def word(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def array(*numbers: int) -> Integers:
    return np.array(numbers, dtype=np.int64)


# --- variance and early exit ------------------------------------------------------------------------------------------


def obvious_mul(a: int, b: int) -> int:
    return ((a * b) >> 16) & LARGEST


def obvious_div(a: int, b: int) -> int:
    if b == 0:
        return 0
    return LARGEST if a > (1 << 48) - 1 else (a << 16) // b


def obvious_variance(heats: list[int]) -> int:
    n = len(heats)
    mean = obvious_div((sum(heats) << 16) & LARGEST, n << 16)
    distances = [abs(((heat << 16) & LARGEST) - mean) for heat in heats]
    squares = sum(obvious_mul(d, d) // 65_536 for d in distances) & LARGEST
    return obvious_div((squares << 16) & LARGEST, n << 16)


def obvious_levene(variances: list[int], size: int) -> int:
    k = len(variances)
    median = sorted(variances)[k // 2]
    z = [abs(variance - median) for variance in variances]
    mean = (sum(value >> 16 for value in z) // k) << 16
    squares = sum(obvious_mul(abs(value - mean), abs(value - mean)) for value in z) & LARGEST
    numerator = obvious_mul((k - 1) << 16, obvious_mul(size << 16, squares))
    return obvious_div(numerator, obvious_mul(k << 16, obvious_variance(z)))


def obvious_width(heats: list[int]) -> int:
    n = len(heats)
    for size in range(256, min(n, 4_096) + 1, 64):
        k = n // size
        if k >= 3:
            variances = [obvious_variance(heats[i * size : (i + 1) * size]) for i in range(k)]
            if obvious_levene(variances, size) <= 425_984:
                return size
    return min(n, 4_096)


@pytest.mark.parametrize(
    ("heats", "expected"),
    [
        ([5, 5, 5], 0),
        ([1, 3], 65_536),  # mean 2, squares 1 and 1
        ([0, 1], 0),  # mean 0.5, squares 0.25, of which the whole part is 0
        ([0, 0, 3], 131_072),  # mean 1, squares 1 + 1 + 4 = 6, a third of it
        ([0, 1 << 16], 1 << 46),  # mean 2^15, squares 2^30 each: (2^31 << 16) / 2
        # Mean 2^19, squares 2^38 each. Their sum, 2^39, shifted by 16 is above 2^48-1: the quotient saturates.
        ([0, 1 << 20], LARGEST),
        # The sum 2^32 shifted by 16 is 2^48, one too many: the mean itself saturates at 2^64-1. Distances
        # 2^64-1-2^48 and 2^64-1: their squares, without what does not fit, are 2^48 - 2^33 + 2^17 and 2^48 - 2^33, so
        # that V saturates, too.
        ([1 << 32, 0], LARGEST),
        # Equal heats of 10^12 have no variance, yet their mean saturates, and with it the variance.
        ([10**12] * 4, LARGEST),
        # Three times 2^63-1 is 2^63-3 modulo 2^64: the mean saturates, heats << 16 are 2^64-65536, 65535^2 >> 32 is 0.
        ([(1 << 63) - 1] * 3, 0),
        ([0, 0], 0),
        ([7], 0),
    ],
)
def test_variance_by_hand(heats, expected) -> None:
    assert inference.variance(array(*heats)) == word(expected)
    assert obvious_variance(heats) == expected


heat_lists = st.integers(0, 62).flatmap(
    lambda size: st.lists(st.one_of(st.integers(0, 1 << size), st.just(1 << size)), min_size=1, max_size=40)
)


@given(heat_lists)
def test_variance_is_that_of_the_equations(heats) -> None:
    assert inference.variance(array(*heats)) == word(obvious_variance(heats))
    assert inference.words_variance(array(*heats)) == word(obvious_variance(heats))


def test_squares_that_overflow_are_lost_before_the_quotient_saturates() -> None:
    # The sum of squares counts modulo 2^48: 2^48 + 5 is 5, and 2^48 + 2^32 saturates.
    assert inference.saturating_share((1 << 48) + 5, 1) == 5 << 16
    assert inference.saturating_share((1 << 48) + (1 << 32), 1) == q48.LARGEST
    assert inference.saturating_share((1 << 32) - 1, 4_096) == ((1 << 32) - 1) << 4


@pytest.mark.parametrize(
    ("now", "before", "steady"),
    [
        (5, 0, False),  # after no variance never
        (0, 0, False),
        (104_999, 100_000, True),  # (4999 << 16) / 100000 = 3276.1
        (105_000, 100_000, True),  # 3276.8 truncates
        (105_001, 100_000, False),  # 3277.4
        (95_000, 100_000, True),
        (94_999, 100_000, False),
        (LARGEST, LARGEST, True),  # saturated twice: no difference
        (LARGEST, 65_536, False),  # a difference above 2^48-1 saturates the share
        (65_536, LARGEST, False),
        ((1 << 48) - 65_536, LARGEST, False),
        (0, (1 << 48) - 1, False),
    ],
)
def test_a_variance_within_five_percent_is_steady(now, before, steady) -> None:
    assert bool(inference.is_steady(word(now), word(before))) is steady


# --- L5, L6 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heats", "expected"),
    [
        ([7] * 4_096, 256),  # no variances, no differences: 0 / 0 is 0
        ([7] * 767, 767),  # two chunks of 256 are too few to compare
        ([7] * 2, 2),
        # Variances 0, 0 and 59^2 = 3481. Median 0, mean deviation 3481 / 3 = 1160 (whole part). Squares 1160^2 twice
        # and 2321^2: 8078241.0. Numerator 2 * 256 * 8078241.0 = 4136059392.0, below 2^32. The variance of the raw
        # words saturates at 2^64-1; three times that is 2^64-3. W = 0: equal.
        ([0] * 512 + [0, 118] * 128, 256),
        # With 60^2 = 3600: 1200, 1200^2 twice and 2400^2 are 8640000.0, the numerator 4423680000.0 is above 2^32 - 1, W
        # is 2^64-1, the next size has too few chunks: all 768.
        ([0] * 512 + [0, 120] * 128, 768),
    ],
)
def test_width_by_hand(heats, expected) -> None:
    assert inference.infer_width(array(*heats), inference.scratch()) == expected
    assert obvious_width(heats) == expected


def test_the_median_of_an_even_number_is_the_upper_one() -> None:
    # Variances 0, 0, 2.0, 2.0: median 2.0, deviations 2.0 2.0 0 0, mean 1.0, squares 4 * 1.0. Numerator 3 * 256 * 4.0 =
    # 3072.0. Variance of the raw deviations 131072 131072 0 0: mean 65536, d = 2^32, squares 2^32 each and 2^34 in
    # all, saturated; times 4 it is 2^64-4: W = 0.
    rows = np.zeros((2, 4), dtype=np.int64)
    assert inference.levene(array(0, 131_072, 0, 131_072), 256, rows[0], rows[1]) == 0
    assert rows[0].tolist() == [131_072, 0, 131_072, 0]


@given(st.lists(st.integers(0, LARGEST), min_size=3, max_size=16), st.integers(4, 21))
def test_levene_is_that_of_the_equations(variances, size) -> None:
    rows = np.zeros((2, len(variances)), dtype=np.int64)
    given_words = array(*map(word, variances))
    assert inference.levene(given_words, size * 64, rows[0], rows[1]) == word(obvious_levene(variances, size * 64))


@pytest.mark.parametrize("seed", range(6 if MODE == "numba" else 2))
@pytest.mark.parametrize("top", [30, 2_000, 10**5, 10**8, 10**13, 1 << 62])
def test_the_width_is_the_first_size_that_the_equations_accept(seed, top) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(768, 1_600))
    spread = np.repeat(rng.random(n // 50 + 1), 50)[:n]
    heats = (rng.random(n) * spread * top).astype(np.int64)
    assert inference.infer_width(heats, inference.scratch()) == obvious_width(heats.tolist())


def test_a_later_size_can_be_the_first_that_is_accepted() -> None:
    # Every 640 heats one burst: chunks of 640 are alike, chunks of 256 are not.
    heats = ([0, 400] * 64 + [0] * 512) * 6
    accepted = obvious_width(heats)
    assert accepted > 256
    assert accepted < len(heats)
    assert inference.infer_width(array(*heats), inference.scratch()) == accepted


def slope(*heats: int) -> int:
    return int(inference.infer_slope(array(*heats), np.zeros(q48.LOGARITHMS, dtype=np.int64)))


@pytest.mark.parametrize(
    ("heats", "expected"),
    [
        # ln q of 65536 and 131072: 0 and 45426. A = 1 * 45426, B = 45426: |2A - 1B| / (2 * 1 - 1) = 45426.
        ([65_536, 131_072], 45_426),
        ([131_072, 65_536], 45_426),  # A = 0, B = 45426: the sign is lost
        # A = 45426 + 2 * 90852 = 227130, B = 136278: |3A - 3B| / (3 * 5 - 9) = 272556 / 6.
        ([65_536, 131_072, 262_144], 45_426),
        ([1, 1], 0),  # a flat line
        # Heats of 0 are left out of the sums but not of n: A = B = -726816, |2A - B| = 726816.
        ([0, 1], 726_816),
        ([0, 0, 0], 0),
        # 65536 * 2^20 = 2^36: ln = 20 * 45426.
        ([1 << 36, 65_536], 908_520),
    ],
)
def test_slope_by_hand(heats, expected) -> None:
    assert slope(*heats) == expected


@given(st.lists(st.integers(0, 62).map(lambda size: (1 << size) - 1), min_size=2, max_size=60))
def test_slopes_stay_within_what_decay_can_take(heats) -> None:
    assert 0 <= slope(*heats) <= steps.LARGEST_SLOPE_Q48


def test_slope_of_4096_extreme_heats_neither_overflows_nor_leaves_its_bounds() -> None:
    heats = [1] * 2_048 + [(1 << 63) - 1] * 2_048
    known = np.zeros(q48.LOGARITHMS, dtype=np.int64)
    logs = [int(q48.ln(heat, known)) for heat in heats]
    n = len(heats)
    expected = abs(n * sum(t * y for t, y in enumerate(logs)) - n * (n - 1) // 2 * sum(logs))
    assert slope(*heats) == expected // (n * n * (n * n - 1) // 12)
