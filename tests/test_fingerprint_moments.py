"""Correlations of many series and the modes of a steady state: closed forms, numpy, statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.tsa.api import VAR

from twin.fingerprint.dynamics import (
    SQUARINGS,
    autoregression,
    decay_rate_hz,
    divide_right,
    independent,
    log_spectral_radius,
)
from twin.fingerprint.moments import (
    correlations,
    difference_correlations,
    dominant_eigenvalue,
    largest_eigenvalue,
    mean_off_diagonal,
)
from twin.fingerprint.series import NotKnown

SERIES = 7
FINE = 1e12
"""Integers for one: so fine that rounding to them does not show."""


def columns(*series: np.ndarray) -> tuple[np.ndarray, ...]:
    """Seven columns of integers: these, and others that do not vary."""
    whole = [np.round(np.asarray(each, dtype=float) + 0.0).astype(np.int64) for each in series]
    flat = np.full(len(whole[0]), 5, dtype=np.int64)
    return (*whole, *[flat] * (SERIES - len(whole)))


def drawn(seed: int, count: int) -> tuple[np.ndarray, ...]:
    """Seven series of small and large numbers that share something; some may not vary."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=count)
    return tuple(
        (rng.integers(0, 10 ** int(rng.integers(0, 13)), 1) + rng.integers(0, 2) * np.round(
            10.0 ** rng.integers(0, 7) * (shared * rng.normal() + rng.normal(size=count)) + 1e8
        )).astype(np.int64)
        for _ in range(SERIES)
    )  # fmt: skip


@given(st.integers(0, 2**32 - 1), st.integers(3, 5_000))
def test_correlations_are_those_of_numpy(seed: int, count: int) -> None:
    series = drawn(seed, count)
    for (found, there), values in (
        (correlations(series), np.array(series)),
        (difference_correlations(series), np.diff(np.array(series))),
    ):
        assert there == [i for i in range(SERIES) if np.ptp(values[i]) > 0]
        if there:
            expected = np.atleast_2d(np.corrcoef(values[there]))
            assert found[np.ix_(there, there)] == pytest.approx(expected, abs=1e-9)
        assert np.abs(found).max() <= 1.0
        assert all(found[i, i] == 1.0 for i in there)
        if len(there) > 1:
            sizes = np.abs(np.atleast_2d(np.corrcoef(values[there])))
            off = (sizes.sum() - len(there)) / len(there) / (len(there) - 1)
            assert mean_off_diagonal(found, there) == pytest.approx(off, abs=1e-9)
            largest = np.linalg.eigvalsh(np.corrcoef(values[there]))[-1]
            assert dominant_eigenvalue(found, there) == pytest.approx(largest, abs=1e-9)
            assert 1.0 - 1e-12 <= dominant_eigenvalue(found, there) <= len(there) + 1e-12


def test_sinusoids_of_whole_periods_share_nothing_and_multiples_all() -> None:
    t = 2 * np.pi * np.arange(12_000) / 12_000
    apart = columns(*(1e9 * np.sin(k * t) + 2e9 for k in range(1, SERIES + 1)))
    found, there = correlations(apart)
    assert found == pytest.approx(np.eye(SERIES), abs=1e-8)
    assert dominant_eigenvalue(found, there) == pytest.approx(1.0, abs=1e-8)
    found, there = correlations(columns(*((k + 1) * np.round(1e6 * np.sin(t)) + 10**9 for k in range(SERIES))))
    assert found == pytest.approx(np.ones((SERIES, SERIES)), abs=1e-12)
    assert dominant_eigenvalue(found, there) == pytest.approx(7.0, abs=1e-10)


def test_two_series_with_correlation_rho_have_the_eigenvalue_one_plus_rho() -> None:
    t = 2 * np.pi * np.arange(10_000) / 100
    for rho in (-0.8, 0.0, 0.3, 0.999):
        series = columns(1e9 * np.sin(t), 1e9 * (rho * np.sin(t) + math.sqrt(1 - rho * rho) * np.cos(t)))
        found, there = correlations(series)
        assert there == [0, 1]
        assert found[0, 1] == pytest.approx(rho, abs=1e-8)
        assert dominant_eigenvalue(found, there) == pytest.approx(1 + abs(rho), abs=1e-8)


def test_a_ramp_has_differences_that_do_not_vary() -> None:
    t = np.arange(2_000)
    _, there = difference_correlations(columns(t, 5 * t + 3, t * t, 2 * t * t))
    assert there == [2, 3]
    with pytest.raises(NotKnown, match="fewer than two"):
        mean_off_diagonal(*difference_correlations(columns(t, t * t)))
    with pytest.raises(NotKnown, match="fewer than two"):
        dominant_eigenvalue(*correlations(columns(t)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_eigenvalues_and_radii_are_those_of_numpy(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(size, size)) * 10.0 ** rng.integers(-5, 5)
    both = matrix + matrix.T
    assert largest_eigenvalue(both.copy()) == pytest.approx(
        np.linalg.eigvalsh(both)[-1], abs=1e-12 * np.abs(both).max()
    )
    radius = np.abs(np.linalg.eigvals(matrix)).max()
    assert math.exp(log_spectral_radius(matrix.copy(), SQUARINGS)) == pytest.approx(radius, rel=1e-9)
    bottom = matrix @ matrix.T + np.eye(size) * np.abs(matrix).max() ** 2
    top = rng.normal(size=(size, size))
    found = top.copy()
    divide_right(found, bottom.copy())
    assert found == pytest.approx(np.linalg.solve(bottom.T, top.T).T, rel=1e-9, abs=1e-9 * np.abs(found).max())


def test_radii_that_are_known() -> None:
    assert log_spectral_radius(np.array([[0.0, 5.0], [0.0, 0.0]]), SQUARINGS) == -745.0
    assert log_spectral_radius(np.zeros((3, 3)), SQUARINGS) == -745.0
    # A Jordan block and a rotation.
    assert log_spectral_radius(np.array([[0.5, 1.0], [0.0, 0.5]]), SQUARINGS) == pytest.approx(math.log(0.5), abs=1e-9)
    turn = 0.97 * np.array([[math.cos(1.1), -math.sin(1.1)], [math.sin(1.1), math.cos(1.1)]])
    assert log_spectral_radius(turn, SQUARINGS) == pytest.approx(math.log(0.97), abs=1e-11)


@pytest.mark.parametrize(("phi", "count"), [(0.5, 30), (0.99, 400), (0.9999, 9_000)])
def test_a_decay_has_the_rate_of_its_formula(phi: float, count: int) -> None:
    """x[t + 1] = a + phi x[t] without noise: every point lies on the line, whatever the constant."""
    t = np.arange(count)
    series = columns(FINE * phi**t + 3 * FINE)
    assert decay_rate_hz(series, 0, 0.001) == pytest.approx(-math.log(phi) / 0.001, rel=1e-6)
    growing = columns(FINE * phi ** -(t * 0.1))
    assert decay_rate_hz(growing, 0, 0.001) == pytest.approx(0.1 * math.log(phi) / 0.001, rel=1e-6)


def test_a_fading_rotation_has_its_radius() -> None:
    t = np.arange(400)
    x, y = FINE * 0.99**t * np.cos(0.3 * t), FINE * 0.99**t * np.sin(0.3 * t)
    series = columns(x + 2 * FINE, 3 * x + y + 9 * FINE)
    assert decay_rate_hz(series, 0, 0.002) == pytest.approx(-math.log(0.99) / 0.002, rel=1e-6)
    # From tick 100 on it is the same process.
    assert decay_rate_hz(series, 100, 0.002) == pytest.approx(-math.log(0.99) / 0.002, rel=1e-6)


def simulated(matrix: np.ndarray, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.zeros((count, len(matrix)))
    for t in range(1, count):
        x[t] = matrix @ x[t - 1] + rng.normal(size=len(matrix))
    return x


@pytest.mark.parametrize("seed", range(4))
def test_an_autoregression_is_that_of_statsmodels_and_near_the_planted_one(seed: int) -> None:
    planted = np.array([[0.9, 0.1, 0.0], [-0.2, 0.5, 0.1], [0.0, 0.3, 0.2]])
    x = np.round(1e6 * simulated(planted, 20_000, seed)) + 1e8
    series = columns(*x.T)
    start = 300
    found, names = autoregression(series, start)
    assert names == [0, 1, 2]
    expected = VAR(x[start:]).fit(1).coefs[0]
    deviations = x[start:-1].std(axis=0)
    assert found == pytest.approx(expected * deviations[None, :] / deviations[:, None], abs=1e-9)
    radius = np.abs(np.linalg.eigvals(expected)).max()
    assert decay_rate_hz(series, start, 0.001) == pytest.approx(-math.log(radius) / 0.001, rel=1e-7)
    assert radius == pytest.approx(np.abs(np.linalg.eigvals(planted)).max(), abs=0.02)


@pytest.mark.parametrize("phi", [0.3, 0.9, 0.99])
def test_an_ar1_forgets_as_its_coefficient_says(phi: float) -> None:
    x = 1e6 * simulated(np.array([[phi]]), 50_000, 3) + 1e9
    error = 3 * math.sqrt((1 - phi * phi) / 50_000) / phi
    assert decay_rate_hz(columns(*x.T), 0, 0.001) == pytest.approx(-math.log(phi) / 0.001, abs=error / 0.001 + 0.1)


def test_white_noise_is_forgotten_at_once() -> None:
    white = np.random.default_rng(4).normal(size=(50_000, 2)) * 1e6 + 1e8
    assert decay_rate_hz(columns(*white.T), 0, 0.001) > -math.log(0.02) / 0.001


@pytest.mark.parametrize("seed", range(10))
def test_series_that_follow_from_others_are_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cache, bucket = rng.integers(50, 120, 5_000), rng.integers(3, 40, 5_000)
    series = columns(cache, bucket, cache + bucket, 7 * cache + 11, rng.integers(0, 9, 5_000), 3 * cache - bucket + 99)
    found, names = autoregression(series, 0)
    # Of equal pivots the first series stays, then what is left of it decides.
    assert len(names) == 3
    assert 4 in names
    assert found.shape == (3, 3)
    kept = np.array([series[i] for i in names]).T
    radius = np.abs(np.linalg.eigvals(VAR(kept.astype(float)).fit(1).coefs[0])).max()
    assert decay_rate_hz(series, 0, 0.001) == pytest.approx(-math.log(radius) / 0.001, rel=1e-6)


def test_pivots() -> None:
    order = np.zeros(3, dtype=np.int64)
    assert independent(np.ones((3, 3)), order) == 1
    assert order[0] == 0
    assert independent(np.eye(3), order) == 3
    assert order.tolist() == [0, 1, 2]


def test_nothing_that_varies_has_no_modes() -> None:
    with pytest.raises(NotKnown, match="none of the metrics varies"):
        decay_rate_hz(columns(np.ones(2_000)), 0, 0.001)
    with pytest.raises(NotKnown, match="no time passes"):
        decay_rate_hz(columns(np.arange(2_000)), 0, 0.0)
    # What varies before the steady state does not count, and neither does a last tick that nothing follows.
    late = np.where(np.arange(2_000) < 500, 7, 9)
    late[-1] = 11
    with pytest.raises(NotKnown, match="none of the metrics varies"):
        decay_rate_hz(columns(late), 500, 0.001)


@given(st.integers(0, 2**32 - 1), st.integers(0, 10))
def test_a_unit_changes_no_mode(seed: int, power: int) -> None:
    x = np.round(1e4 * simulated(np.array([[0.8, 0.3], [0.0, 0.5]]), 500, seed)) + 1e7
    one = decay_rate_hz(columns(*x.T), 0, 0.001)
    other = decay_rate_hz(columns(x[:, 0] * 2**power, x[:, 1]), 0, 0.001)
    assert other == pytest.approx(one, rel=1e-9)
