"""Convergence and step response: against closed forms, and against pandas."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.fingerprint.convergence import (
    BLOCK_TICKS,
    QUIET_CV,
    WINDOW_TICKS,
    NeverSteady,
    block_variations,
    convergence,
    hit_percent,
    response,
    variation,
)
from twin.fingerprint.series import NotKnown

TICKS = np.arange(60_000)


def first_order(steady: float, tau: float, start: float = 0.0) -> np.ndarray:
    return steady + (start - steady) * np.exp(-TICKS / tau)


def mean_of_decay(tau: float, begin: int, count: int) -> float:
    """The mean of exp(-t/tau) over `count` ticks from `begin` on, by the sum of a geometric series."""
    return math.exp(-begin / tau) * (1 - math.exp(-count / tau)) / (count * (1 - math.exp(-1 / tau)))


@pytest.mark.parametrize("tau", [300.0, 2_000.0, 5_000.0])
def test_a_first_order_step_converges_where_the_closed_form_says(tau: float) -> None:
    values = first_order(80.0, tau)

    def cv(block: int) -> float:
        one = mean_of_decay(tau, block * BLOCK_TICKS, BLOCK_TICKS)
        two = mean_of_decay(tau / 2, block * BLOCK_TICKS, BLOCK_TICKS)
        return math.sqrt(two - one * one) / (1 - one)

    expected = next(block for block in range(50) if cv(block) < QUIET_CV)
    found = convergence(values)
    assert found.time_ticks == expected * BLOCK_TICKS
    assert found.hold_ratio == 1.0
    variations = np.zeros(60)
    block_variations(values, BLOCK_TICKS, 100, variations)
    # Later blocks differ by less than doubles tell.
    assert variations[:8] == pytest.approx([cv(block) for block in range(8)], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("tau", [300.0, 2_000.0, 5_000.0])
@pytest.mark.parametrize(("start", "end"), [(0.0, 80.0), (20.0, 80.0), (500.0, 100.0)])
def test_a_first_order_step_rises_and_settles_where_the_closed_form_says(tau: float, start: float, end: float) -> None:
    values = first_order(end, tau, start)
    from_tick = 30_000
    steady, _ = variation(values, from_tick)
    assert steady == pytest.approx(end + (start - end) * mean_of_decay(tau, from_tick, 30_000), rel=1e-12)
    # The mean of 256 ticks up to k is end + (start - end) * exp(-k / tau) * lag.
    lag = mean_of_decay(tau, -WINDOW_TICKS + 1, WINDOW_TICKS)

    def first_within(target: float) -> int:
        return max(WINDOW_TICKS - 1, math.ceil(tau * math.log((start - end) * lag / (target - end))))

    found = response(values, steady)
    assert found.rise_ticks == first_within(start + 0.95 * (steady - start))
    edge = 0.95 * steady if start < end else 1.05 * steady
    assert found.settling_ticks == first_within(edge) - 1 or found.settling_ticks == 0
    first_mean = end + (start - end) * math.exp(-255 / tau) * lag
    assert found.peak == pytest.approx(max(values[-256:].mean(), first_mean), rel=1e-9)


def test_a_plateau_above_the_steady_value_is_its_overshoot() -> None:
    values = np.full(20_000, 60.0)
    values[3_000:4_000] = 78.0
    found = response(values, 60.0)
    assert found.peak == pytest.approx(78.0, rel=1e-14)
    # Outside while more than 3 of 256 ticks' worth of 18 are in the window: 5 % of 60 is 3, and 42.67 of 256 give it.
    assert found.settling_ticks == 3_999 + 256 - 43
    assert found.rise_ticks == 0


def test_a_step_is_risen_when_95_percent_of_the_window_is_over_it() -> None:
    values = np.where(TICKS < 2_000, 10.0, 90.0)
    found = response(values, 90.0)
    assert found.rise_ticks == 2_000 + math.ceil(0.95 * 256) - 1
    assert response(np.full(5_000, 7.0), 7.0).rise_ticks == 0
    assert response(np.full(5_000, 7.0), 7.0).settling_ticks == 0
    assert response(np.full(5_000, 1.0), 7.0).rise_ticks is None
    # What starts within 5 % has risen, at 5 % itself too.
    assert response(np.where(TICKS < 3, 95.0, 100.0), 100.0).rise_ticks == 0
    assert response(np.where(TICKS < 3, 94.9, 100.0), 100.0).rise_ticks == 255
    assert response(np.where(TICKS < 3, 86.0, 90.0), 90.0).rise_ticks == 0


@pytest.mark.parametrize(("cv", "quiet"), [(0.049, True), (0.051, False)])
def test_the_cv_of_a_sinusoid_is_its_amplitude_over_the_root_of_two(cv: float, quiet: bool) -> None:
    values = 50.0 * (1.0 + math.sqrt(2.0) * cv * np.sin(2 * np.pi * TICKS[:12_000] / 100))
    assert variation(values) == pytest.approx((50.0, cv), rel=1e-9)
    if quiet:
        assert convergence(values).time_ticks == 0
    else:
        with pytest.raises(NeverSteady, match="did not converge"):
            convergence(values)


def test_the_hold_ratio_counts_later_blocks() -> None:
    noisy = np.tile([20.0, 80.0], 500)
    quiet = np.full(1_000, 50.0)
    values = np.concatenate([noisy, *[quiet] * 10, noisy, quiet, noisy, noisy, np.full(500, 1.0)])
    assert convergence(values) == (1_000, 0.25)
    assert convergence(values[:11_500]) == (1_000, None)
    with pytest.raises(NeverSteady):
        convergence(values[:10_999])
    with pytest.raises(NotKnown, match="9,999 ticks; 10 blocks of 1,000"):
        convergence(values[:9_999])


def test_blocks_with_too_few_values_are_not_quiet_and_zeros_are() -> None:
    values = np.full(30_000, -1.0)
    with pytest.raises(NotKnown, match="no tick executed a word"):
        convergence(values)
    values[::11] = 50.0  # 90 or 91 in a block
    with pytest.raises(NeverSteady):
        convergence(values)
    values[15_000::10] = 50.0
    assert convergence(values) == (15_000, 1.0)
    assert convergence(np.zeros(10_000)) == (0, None)
    assert variation(np.zeros(3)) == (0.0, 0.0)
    with pytest.raises(NotKnown, match="no tick has a value"):
        variation(np.full(3, -1.0))


def test_shares_of_hits() -> None:
    out = np.zeros(4)
    hit_percent(np.array([1, 0, 3, 0]), np.array([3, 5, 0, 0]), out)
    assert out.tolist() == [25.0, 0.0, 100.0, -1.0]


series = st.tuples(st.integers(0, 2**32 - 1), st.integers(256, 2_000), st.sampled_from([0.0, 0.3, 0.97]))


def drawn(seed: int, count: int, holes: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 100, count) * rng.choice([0.0, 1.0, 1.0], count)
    values[rng.random(count) < holes] = -1.0
    values[rng.integers(count)] = 40.0
    return values


@given(series, st.floats(0.5, 100.0))
def test_moving_means_are_those_of_pandas(drawing, steady: float) -> None:
    values = drawn(*drawing)
    found = response(values, steady)
    there = pd.Series(np.where(values < 0, np.nan, values))
    means = there.rolling(WINDOW_TICKS, min_periods=1).mean().to_numpy()[WINDOW_TICKS - 1 :]
    start = there.dropna().iloc[0]
    if np.isnan(means).all():
        return
    assert found.peak == pytest.approx(np.nanmax(means), rel=1e-9, abs=1e-9)
    outside = np.flatnonzero((means < 0.95 * steady * (1 - 1e-12)) | (means > 1.05 * steady * (1 + 1e-12)))
    assert found.settling_ticks == (outside[-1] + WINDOW_TICKS - 1 if len(outside) else 0)
    target = start + 0.95 * (steady - start)
    reached = np.flatnonzero(means >= target if steady >= start else means <= target)
    if abs(start - steady) <= 0.05 * steady:
        assert found.rise_ticks == 0
    else:
        assert found.rise_ticks == (reached[0] + WINDOW_TICKS - 1 if len(reached) else None)
    counted = there.dropna()
    mean, cv = variation(values)
    assert mean == pytest.approx(counted.mean(), rel=1e-9, abs=1e-12)
    assert cv == pytest.approx(counted.std(ddof=0) / counted.mean() if counted.mean() else 0.0, rel=1e-9, abs=1e-12)


@given(series, st.integers(-20, 20), st.floats(0.5, 100.0))
def test_a_change_of_unit_changes_nothing(drawing, power: int, steady: float) -> None:
    values, scale = drawn(*drawing), 2.0**power
    scaled = np.where(values < 0, -1.0, values * scale)
    before, after = response(values, steady), response(scaled, steady * scale)
    assert after == (before.rise_ticks, before.settling_ticks, before.peak * scale)
    assert variation(scaled) == (variation(values)[0] * scale, variation(values)[1])
