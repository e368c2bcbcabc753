"""Correlation at the strongest lag: against closed forms, and against pandas."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.fingerprint.coupling import LAGS, carry, known_from, lagged_correlation
from twin.fingerprint.series import NotKnown

UNKNOWN = 0xFFFFFFFF


def coupling(x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    return lagged_correlation(x.astype(float).copy(), y.astype(float).copy(), "x", "y")


@pytest.mark.parametrize("lag", [0, 1, 7, 49, 50])
@pytest.mark.parametrize("sign", [1.0, -3.0])
def test_a_delayed_copy_is_found_at_its_delay(lag: int, sign: float) -> None:
    white = np.random.default_rng(lag).normal(size=5_000)
    r, found = coupling(white[lag:], sign * white[: 5_000 - lag])
    assert found == lag
    assert r == pytest.approx(math.copysign(1.0, sign), abs=1e-12)


def test_a_quarter_of_a_period_later_a_sinusoid_is_its_cosine() -> None:
    t = np.arange(10_000)
    r, lag = coupling(np.sin(2 * np.pi * t / 160), -np.cos(2 * np.pi * t / 160))
    assert lag == 40
    assert r == pytest.approx(1.0, abs=1e-12)


def test_of_equal_ones_the_smallest_lag_counts() -> None:
    turning = np.tile([1.0, -1.0], 128)
    assert coupling(turning, turning) == (1.0, 0)


def test_noise_lowers_r_as_the_variances_say() -> None:
    """y[t] = x[t - 12] + noise of the same variance, x an AR(1): r = 1 / sqrt(2) at lag 12, and phi^k away from it."""
    rng = np.random.default_rng(5)
    count, phi = 200_000, 0.9
    x = np.zeros(count)
    for t, push in enumerate(rng.normal(size=count - 1) * math.sqrt(1 - phi * phi), start=1):
        x[t] = phi * x[t - 1] + push
    y = np.roll(x, 12) + rng.normal(size=count)
    r, lag = coupling(x, y)
    assert lag == 12
    assert r == pytest.approx(1 / math.sqrt(2), abs=0.006)


def test_white_noise_stays_below_what_is_called_chance() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert abs(coupling(rng.normal(size=1_000), rng.normal(size=1_000))[0]) < 0.2


@given(st.integers(0, 2**32 - 1), st.integers(101, 1_500), st.integers(1, 12))
def test_every_lag_is_that_of_pandas(seed: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, levels + 1, count).astype(float)
    y = np.convolve(x, rng.normal(size=9))[:count] + rng.normal(size=count) * rng.choice([0.0, 1.0])
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return
    a, b = pd.Series(x), pd.Series(y)
    expected = np.array([a.corr(b.shift(-lag)) for lag in range(LAGS + 1)])
    r, lag = coupling(x, y)
    assert -1.0 <= r <= 1.0
    assert abs(r) == pytest.approx(np.abs(expected).max(), abs=1e-9)
    assert r == pytest.approx(expected[lag], abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(-30, 30), st.integers(-30, 30), st.booleans())
def test_units_change_nothing_and_a_sign_the_sign(seed: int, up: int, down: int, turned: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=300), rng.normal(size=300)
    r, lag = coupling(x, y)
    sign = -1.0 if turned else 1.0
    assert coupling(x * 2.0**up, y * sign * 2.0**down) == (sign * r, lag)


def test_what_does_not_vary_is_not_known() -> None:
    x, flat = np.arange(500.0), np.full(500, 3.3)
    with pytest.raises(NotKnown, match=r"^y does not vary$"):
        coupling(x, flat)
    with pytest.raises(NotKnown, match=r"^x does not vary$"):
        coupling(flat, x)
    with pytest.raises(NotKnown, match="more than 100 are needed"):
        coupling(x[:100], x[:100])
    # x varies in its last value alone: there is one pair of ticks that has it, at lag 0.
    only_last = np.where(x == 499, 8.0, 3.3)
    r, lag = coupling(only_last, x)
    assert lag == 0
    assert r == pytest.approx(np.corrcoef(only_last, x)[0, 1], rel=1e-9)
    # x in its last value and y in its first: at lag 0 both, afterwards neither.
    first = np.where(x == 0, 9.1, 7.7)
    assert coupling(only_last, first) == (pytest.approx(-1 / 499, rel=1e-6), 0)


def test_ticks_without_a_value_carry_the_last_one() -> None:
    out = np.zeros(6)
    carry(np.array([-1.0, -1.0, 5.0, -1.0, 0.0, -1.0]), out)
    assert out.tolist() == [5.0, 5.0, 5.0, 5.0, 0.0, 0.0]
    carry(np.full(6, -1.0), out)
    assert set(out.tolist()) == {-1.0}


def test_the_load_may_come_late_but_not_go() -> None:
    load = np.array([UNKNOWN, UNKNOWN, 7, 8, 9])
    assert known_from(load, UNKNOWN) == 2
    assert known_from(load[2:], UNKNOWN) == 0
    for wrong in ([7, UNKNOWN, 8], [UNKNOWN, UNKNOWN], []):
        with pytest.raises(NotKnown, match="the load is not known in"):
            known_from(np.array(wrong, dtype=np.int64), UNKNOWN)
