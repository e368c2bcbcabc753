"""Whiteness, normality and entropy: closed forms, scipy, statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.diagnostic import acorr_ljungbox

from twin.fingerprint.entropy import BINS, block_entropies, entropy_growth, slope
from twin.fingerprint.noise import LAGS, chi_square_tail, jarque_bera, ljung_box, white_and_normal
from twin.fingerprint.series import NotKnown


def chances(x: np.ndarray) -> tuple[float, float]:
    return white_and_normal(np.asarray(x, dtype=float).copy(), "it")


@given(st.floats(0.0, 3_000.0), st.sampled_from([2, 4, 20]))
def test_the_tail_of_chi_square_is_that_of_scipy(value: float, degrees: int) -> None:
    expected = scipy.stats.chi2.sf(value, degrees)
    assert chi_square_tail(value, degrees) == pytest.approx(expected, rel=1e-11, abs=1e-300)
    assert 0.0 <= chi_square_tail(value, degrees) <= 1.0


@given(st.integers(0, 2**32 - 1), st.integers(41, 3_000), st.floats(-0.9, 0.9), st.integers(-30, 30))
def test_both_tests_are_those_of_other_libraries(seed: int, count: int, phi: float, power: int) -> None:
    rng = np.random.default_rng(seed)
    x = scipy.signal.lfilter([1.0], [1.0, -phi], rng.gamma(2.0, size=count)) * 2.0**power
    white, normal = chances(x)
    expected = acorr_ljungbox(x, lags=[LAGS])
    assert white == pytest.approx(float(expected["lb_pvalue"].iloc[0]), rel=1e-7, abs=1e-12)
    assert normal == pytest.approx(float(scipy.stats.jarque_bera(x).pvalue), rel=1e-7, abs=1e-12)
    assert 0.0 <= white <= 1.0
    assert 0.0 <= normal <= 1.0


def test_a_series_that_turns_at_every_tick_has_known_statistics() -> None:
    """r at lag k is (-1)^k (n - k) / n; the skewness is 0, the kurtosis 1."""
    count = 1_000
    x = np.tile([1.0, -1.0], count // 2)
    expected = (count + 2) / count * sum(count - k for k in range(1, LAGS + 1))
    assert ljung_box(x, LAGS) == pytest.approx(expected, rel=1e-12)
    assert jarque_bera(x) == pytest.approx(count / 6, rel=1e-12)
    assert chances(x) == (0.0, pytest.approx(math.exp(-count / 12), rel=1e-9))


def test_one_in_a_hundred_white_series_is_called_coloured() -> None:
    rng = np.random.default_rng(1)
    seen = np.array([chances(rng.normal(size=2_000)) for _ in range(1_000)])
    # Binomial(1000, 0.01): mean 10, deviation 3.1. And p is spread evenly.
    assert 1 <= (seen[:, 0] < 0.01).sum() <= 22
    assert 1 <= (seen[:, 1] < 0.01).sum() <= 22
    assert seen[:, 0].mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("phi", [0.1, -0.1, 0.5])
def test_an_autoregression_is_coloured_and_normal(phi: float) -> None:
    x = scipy.signal.lfilter([1.0], [1.0, -phi], np.random.default_rng(7).normal(size=20_000))
    white, normal = chances(x)
    assert white < 1e-6
    assert normal > 0.01


def test_white_lateness_makes_coloured_intervals() -> None:
    """Deadlines are absolute, so an interval is late by the difference of two latenesses: r at lag one is -1/2."""
    late = np.random.default_rng(3).gamma(3.0, 10_000.0, 20_000)
    assert chances(late)[0] > 0.01
    interval = np.diff(late)
    assert np.corrcoef(interval[1:], interval[:-1])[0, 1] == pytest.approx(-0.5, abs=0.02)
    assert chances(interval)[0] == 0.0
    assert chances(late)[1] == 0.0  # a gamma is not normal


def test_what_cannot_be_tested() -> None:
    with pytest.raises(NotKnown, match=r"^it does not vary"):
        chances(np.full(100, 0.1))
    with pytest.raises(NotKnown, match="more than 40"):
        chances(np.arange(40))


# --- entropy ----------------------------------------------------------------------------------------------------------


def test_blocks_of_more_and_more_values_grow_in_entropy_as_logarithms() -> None:
    blocks, block = 16, 1_680  # divisible by 1 to 8, ...
    x = np.concatenate([np.arange(block) % (b + 1) for b in range(blocks)]).astype(np.int64)
    x[-1] = 15
    out = np.zeros(blocks)
    block_entropies(x, 0, 15, block, out)
    for b in (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 14):
        assert out[b] == pytest.approx(math.log(b + 1) / math.log(16), abs=1e-12)
    flat = np.full_like(x, 3)
    expected = np.polyfit(np.arange(blocks), out, 1)[0]
    assert entropy_growth((flat, x), block) == pytest.approx(expected, rel=1e-9)
    assert entropy_growth((x, x, flat), block) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 2**40))
def test_entropies_are_those_of_numpy_and_scipy(seed: int, blocks: int, wide: int) -> None:
    rng = np.random.default_rng(seed)
    block = 500
    x = (rng.beta(0.5, 0.7, blocks * block + 33) * wide).astype(np.int64) + 10**12
    if np.ptp(x) == 0:
        return
    out = np.zeros(blocks)
    block_entropies(x, int(x.min()), int(x.max()), block, out)
    assert ((out >= 0.0) & (out <= 1.0 + 1e-12)).all()
    for b in range(blocks):
        away = x[b * block : (b + 1) * block] - x.min()
        counts = np.bincount(np.minimum(away * (BINS / float(np.ptp(x))), BINS - 1).astype(int), minlength=BINS)
        assert counts.sum() == block
        assert out[b] == pytest.approx(scipy.stats.entropy(counts) / math.log(BINS), abs=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_slopes_are_those_of_numpy(y: list[float]) -> None:
    scale = max(1.0, max(map(abs, y)))
    assert slope(np.array(y)) == pytest.approx(np.polyfit(np.arange(len(y)), y, 1)[0], abs=1e-9 * scale)


def test_what_has_no_entropy_that_could_grow() -> None:
    x = np.arange(3_000, dtype=np.int64)
    with pytest.raises(NotKnown, match="3 blocks of 1,000 are needed"):
        entropy_growth((x[:2_999],), 1_000)
    with pytest.raises(NotKnown, match="none of the metrics varies"):
        entropy_growth((x * 0,), 1_000)
    assert entropy_growth((x,), 1_000) == pytest.approx(0.0, abs=0.01)  # a ramp: 5 or 6 of 16 bins in each third
