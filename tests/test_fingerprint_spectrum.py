"""The spectrum of unevenly spaced samples: against closed forms, and against scipy."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from twin.fingerprint.series import NotKnown
from twin.fingerprint.spectrum import hann, peak_and_entropy, resample, spectrum

MS = 1_000_000


def heartbeat(count: int, amplitude: float, frequency_hz: float, phase: float, middle_ns: int = 2_500_000):
    """Ticks whose interval swings by `amplitude` of its middle: times and intervals."""
    times, intervals, now = np.zeros(count, dtype=np.int64), np.zeros(count), 0
    for t in range(count):
        turn = 2 * math.pi * frequency_hz * now / 1e9 + phase
        interval = round(middle_ns * (1 + amplitude * math.sin(turn)))
        now += interval
        times[t], intervals[t] = now, interval
    return times, intervals


@pytest.mark.parametrize("phase", [0.0, 0.7, 1.9, 3.1, 4.6])
@pytest.mark.parametrize("amplitude", [0.02, 0.2, 0.4, 0.6])
@pytest.mark.parametrize("frequency_hz", [5.0, 1.3, 23.0])
def test_an_oscillation_of_the_interval_is_found_within_2_percent(frequency_hz, amplitude, phase) -> None:
    # At 0.6 the interval varies 4 : 1, from 1 to 4 ms.
    times, intervals = heartbeat(20_000, amplitude, frequency_hz, phase)
    assert spectrum(times, intervals).frequency_hz == pytest.approx(frequency_hz, rel=0.02)


@pytest.mark.parametrize("phase", [0.0, 1.0, 2.5, 5.0])
@pytest.mark.parametrize("amplitude", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("beat_hz", [0.2, 5.0, 11.0])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_another_signal_is_found_through_a_heartbeat_that_varies_4_to_1(beat_hz, amplitude, phase, noise) -> None:
    times, _ = heartbeat(20_000, 0.6, beat_hz, 0.3)
    white = np.random.default_rng(3).normal(size=len(times))
    values = amplitude * (np.sin(2 * np.pi * 5.0 * times / 1e9 + phase) + noise * white) + 7.0
    found = spectrum(times, values)
    assert found.frequency_hz == pytest.approx(5.0, rel=0.005)
    assert found.entropy < (0.3 if noise == 0.0 else 0.9)


def test_a_random_heartbeat_and_lomb_scargle_agree() -> None:
    rng = np.random.default_rng(8)
    times = np.cumsum(rng.integers(MS, 4 * MS, 8_000))
    values = np.sin(2 * np.pi * 5.0 * times / 1e9) + 0.3 * rng.normal(size=8_000)
    grid = np.linspace(4.0, 6.0, 2_001)
    power = scipy.signal.lombscargle(times / 1e9, values - values.mean(), 2 * np.pi * grid)
    assert spectrum(times, values).frequency_hz == pytest.approx(grid[power.argmax()], rel=0.005)


@given(st.integers(0, 2**32 - 1), st.integers(1_024, 9_000), st.floats(-0.95, 0.95))
def test_evenly_spaced_it_is_welch_of_scipy(seed: int, count: int, phi: float) -> None:
    values = scipy.signal.lfilter([1.0], [1.0, -phi], np.random.default_rng(seed).normal(size=count))
    size = 256
    while 2 * size <= count // 4:
        size *= 2
    frequencies, power = scipy.signal.welch(values, fs=1_000.0, nperseg=size, detrend="constant", window="hann")
    share = power[1:] / power[1:].sum()
    found = spectrum(np.arange(count, dtype=np.int64) * MS, values)
    assert found.entropy == pytest.approx(scipy.stats.entropy(share) / math.log(len(share)), rel=1e-9)
    assert found.frequency_hz == pytest.approx(frequencies[1 + share.argmax()], abs=500.0 / size)


def test_white_noise_is_spread_and_an_autoregression_as_its_formula_says() -> None:
    rng = np.random.default_rng(2)
    white = rng.normal(size=400_000)
    times = np.arange(400_000, dtype=np.int64) * MS
    assert spectrum(times, white).entropy > 0.998
    for phi in (0.5, 0.9):
        values = scipy.signal.lfilter([1.0], [1.0, -phi], white)
        turn = np.pi * (np.arange(8_192) + 0.5) / 8_192
        power = 1 / (1 + phi * phi - 2 * phi * np.cos(turn))
        share = power / power.sum()
        assert spectrum(times, values).entropy == pytest.approx(scipy.stats.entropy(share) / math.log(8_192), abs=0.003)
    # The third of the power of a Hann window's three bins: -(2/3 ln 2/3 + 2 * 1/6 ln 1/6), in the middle of a bin.
    pure = np.sin(2 * np.pi * (1_000 / 16_384 * 64) * times / 1e9)
    assert spectrum(times, pure).frequency_hz == pytest.approx(1_000 * 64 / 16_384, rel=1e-6)
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 6)) / math.log(8_192)
    assert spectrum(times, pure).entropy == pytest.approx(expected, rel=1e-4)


def test_the_window_and_the_lines_are_those_of_scipy_and_numpy() -> None:
    for size in (256, 1_024, 16_384):
        window = np.zeros(size)
        hann(window)
        assert np.abs(window - scipy.signal.get_window("hann", size)).max() < 1e-15
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.integers(1, 1_000, 2_000))
    values = rng.normal(size=2_000)
    out = np.zeros(int(times[-1] - times[0]) // 77 + 1)
    resample(times, values, 77, out)
    assert out == pytest.approx(np.interp(times[0] + 77 * np.arange(len(out)), times, values), abs=1e-12)


@pytest.mark.parametrize("place", [17.0, 17.3, 16.6, 40.49])
def test_between_bins_a_peak_shaped_like_a_bell_is_found_exactly(place: float) -> None:
    """The logarithm of a bell is a parabola."""
    out = np.zeros(2)
    peak_and_entropy(np.exp(-((np.arange(129) - place) ** 2) / 5.0), out)
    assert out[0] == pytest.approx(place, abs=1e-10)


def test_of_samples_at_one_time_the_last_counts() -> None:
    out = np.zeros(5)
    resample(np.array([0, 10, 10, 20]), np.array([0.0, 1.0, 5.0, 7.0]), 5, out)
    assert out.tolist() == [0.0, 0.5, 5.0, 6.0, 7.0]
    resample(np.array([0, 20, 20]), np.array([0.0, 4.0, 9.0]), 10, out[:3])
    assert out[:3].tolist() == [0.0, 2.0, 9.0]


def test_what_has_no_spectrum() -> None:
    times = np.arange(2_000, dtype=np.int64) * MS
    values = np.sin(times / 3e6)
    for wrong, reason in (
        ((times[:1_023], values[:1_023]), "1,024 are needed"),
        ((times, np.ones(2_000)), "does not vary"),
        ((times // (1_900 * MS), values), "no time passes"),
    ):
        with pytest.raises(NotKnown, match=reason):
            spectrum(*wrong)


def test_a_night_asleep_needs_no_memory() -> None:
    times, intervals = heartbeat(20_000, 0.3, 5.0, 0.0)
    times[10_000:] += 30_000_000_000_000
    spectrum(times[:2_000], intervals[:2_000])  # compiled
    tracemalloc.start()
    found = spectrum(times, intervals)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # At most 8 values a tick, 8 bytes each, and a few arrays of ticks beside; every 2.5 ms would be 96 MB.
    assert most < 8_000_000
    assert found.frequency_hz > 0.0
    assert 0.0 <= found.entropy <= 1.0


@given(st.integers(0, 2**32 - 1), st.integers(-40, 40), st.integers(1, 1_000))
def test_units_change_nothing(seed: int, power: int, slower: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(1_000, 5_000, 1_500))
    values = rng.normal(size=1_500)
    one = spectrum(times, values)
    assert spectrum(times, values * 2.0**power).entropy == pytest.approx(one.entropy, rel=1e-12)
    assert spectrum(times, values * 2.0**power).frequency_hz == pytest.approx(one.frequency_hz, rel=1e-9)
    assert spectrum(times * slower, values).frequency_hz == pytest.approx(one.frequency_hz / slower, rel=1e-3)
    assert 0.0 <= one.entropy <= 1.0
