"""The forecast of temperatures on series whose course is known, with gaps, and its bits."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin import kernels
from twin.kernels import Stream
from twin.learn import linear
from twin.learn.forecast import RESIDUAL, UNKNOWN, Predictor


def predictor(sensors=1, loads=1, stride=1, **more) -> Predictor:
    return Predictor(sensors, loads, Stream(3, "forecast"), stride, **more)


def residuals(bank):
    """Of each sensor, of the last sample."""
    _, memory, *_ = bank.weights()
    return memory[:, RESIDUAL]


def fed(bank, temperatures, loads):
    """Forecasts of all samples: (samples, sensors, 5)."""
    return np.array([bank.see(t, u).copy() for t, u in zip(temperatures, loads, strict=True)])


def heated(count, sensors=1, seed=1, tau=30.0):
    """A body whose heat comes with a random load and goes with `tau` steps; temperatures and loads, rows of samples."""
    rng = np.random.default_rng(seed)
    loads = np.repeat(rng.random((count // 7 + 1, 1)), 7, axis=0)[:count]
    temperatures = np.empty((count, sensors))
    now = np.full(sensors, 40.0)
    for t in range(count):
        temperatures[t] = now
        # The load of a step heats what is measured after it.
        now = now + (30.0 + 40.0 * loads[min(t + 1, count - 1), 0] - now) / tau
    return temperatures, loads


@pytest.mark.parametrize("loads", [0, 1])
@pytest.mark.parametrize("stride", [1, 3])
def test_a_constant_is_forecast_to_the_bit(loads, stride) -> None:
    bank = predictor(loads=loads, stride=stride)
    made = fed(bank, np.full((200, 1), 51.3), np.full((200, loads), 0.4))
    assert np.array_equal(made, np.full(made.shape, 51.3))
    assert np.array_equal(bank.conditional(np.full((max(loads, 1), 5), 0.4)), np.full((1, 5), 51.3))
    assert residuals(bank)[0] == 0.0


def test_a_ramp_is_followed() -> None:
    series = 30.0 + 0.05 * np.arange(800.0)
    made = fed(predictor(), series[:, None], np.full((800, 1), 0.5))[:, 0]
    for t in range(600, 790):
        assert np.allclose(made[t], series[t + 1 : t + 6], atol=0.005)


def test_the_network_learns_a_ramp_beyond_what_the_damped_trend_gives() -> None:
    series = 30.0 + 0.05 * np.arange(1_500.0)
    made = fed(predictor(loads=0), series[:, None], np.zeros((1_500, 0)))[:, 0]
    wrong = np.abs(made[1_200:1_490, 4] - series[1_205:1_495])
    assert wrong.mean() < 0.1  # the last temperature is 0.25 away


def test_a_step_response_is_forecast_when_the_load_to_come_is_known() -> None:
    temperatures, loads = heated(1_500)
    bank = predictor()
    fed(bank, temperatures[:1_400], loads[:1_400])
    for load in (0.0, 0.5, 1.0):
        now, expected = temperatures[1_399, 0], []
        for _ in range(5):
            now += (30.0 + 40.0 * load - now) / 30.0
            expected.append(now)
        assert np.allclose(bank.conditional(np.full((1, 5), load))[0], expected, atol=0.02)


def test_more_load_to_come_is_hotter_and_the_sensor_goes_by_its_own_load() -> None:
    temperatures, loads = heated(1_200, sensors=2)
    both = np.hstack([loads, np.random.default_rng(2).random((1_200, 1))])
    bank = predictor(sensors=2, loads=2, load_of=(0, 0))
    fed(bank, temperatures, both)
    low = bank.conditional(np.array([[0.0] * 5, [1.0] * 5])).copy()
    high = bank.conditional(np.array([[1.0] * 5, [0.0] * 5])).copy()
    assert (high > low).all()


def test_a_conditional_forecast_changes_nothing() -> None:
    temperatures, loads = heated(300)
    bank, other = predictor(), predictor()
    for t in range(300):
        one = bank.see(temperatures[t], loads[t]).copy()
        bank.conditional(np.full((1, 5), 0.3))
        assert np.array_equal(one, other.see(temperatures[t], loads[t]))
    assert all(np.array_equal(a, b) for a, b in zip(bank.weights(), other.weights(), strict=True))


@pytest.mark.parametrize("loads", [0, 1])
@given(at=st.integers(1, 119), change=st.sampled_from([3.0, -20.0, np.nan, UNKNOWN, np.inf]))
def test_what_comes_later_changes_nothing_before(loads, at, change) -> None:
    temperatures, given_loads = heated(120)
    altered, altered_loads = temperatures.copy(), given_loads.copy()
    altered[at:] += change
    altered_loads[at:] = 0.9
    one = fed(predictor(loads=loads), temperatures, given_loads[:, :loads])
    other = fed(predictor(loads=loads), altered, altered_loads[:, :loads])
    assert np.array_equal(one[:at], other[:at])
    assert not np.array_equal(one[at:], other[at:])


@pytest.mark.parametrize("bad", [UNKNOWN, 0.0, np.nan, np.inf, -np.inf, 1e9])
def test_after_a_gap_history_starts_anew_and_nothing_is_made_up(bad) -> None:
    temperatures, loads = heated(400)
    bank = predictor()
    fed(bank, temperatures[:300], loads[:300])
    learned = bank.weights()[3].copy()
    assert (bank.see(np.array([bad]), loads[300]) == UNKNOWN).all()
    assert residuals(bank)[0] == 0.0
    for t in range(301, 310):
        assert np.array_equal(bank.see(temperatures[t], loads[t])[0], np.repeat(temperatures[t], 5))
    assert not np.array_equal(bank.see(temperatures[310], loads[310])[0], np.repeat(temperatures[310], 5))
    for t in range(311, 315):
        bank.see(temperatures[t], loads[t])
    # What was learned is kept; the first pair of ten samples and five that follow is whole one sample later.
    assert np.array_equal(bank.weights()[3], learned)
    bank.see(temperatures[315], loads[315])
    assert not np.array_equal(bank.weights()[3], learned)
    assert all(np.isfinite(array).all() for array in bank.weights())


@pytest.mark.parametrize("bad", [UNKNOWN, np.nan, np.inf, 1e9])
def test_a_load_that_is_not_known_stops_what_needs_it_only(bad) -> None:
    temperatures, loads = heated(300)
    bank = predictor()
    fed(bank, temperatures, loads)
    made = bank.see(temperatures[0], np.array([bad]))
    assert np.array_equal(made[0], np.repeat(temperatures[0], 5))
    assert np.array_equal(bank.conditional(np.full((1, 5), 0.5)), made)
    assert all(np.isfinite(array).all() for array in bank.weights())


def test_a_load_to_come_that_is_not_known_gives_the_blind_forecast() -> None:
    temperatures, loads = heated(300)
    bank = predictor()
    made = fed(bank, temperatures, loads)[-1]
    assert not np.array_equal(bank.conditional(np.full((1, 5), 0.0)), made)
    assert np.array_equal(bank.conditional(np.array([[0.0, 0.0, np.nan, 0.0, 0.0]])), made)


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True)),
        max_size=40,
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1]),
)
def test_whatever_comes_state_and_forecasts_stay_numbers(samples, seed, loads) -> None:
    rng = np.random.default_rng(seed)
    bank = predictor(loads=loads)
    wild = [(10.0 ** rng.uniform(-3, 4), 10.0 ** rng.uniform(-3, 3)) for _ in range(60)]
    for temperature, load in [*wild, *samples, *wild]:
        assert np.isfinite(bank.see(np.array([temperature]), np.array([load] * loads))).all()
        assert np.isfinite(bank.conditional(np.array([[load] * 5]))).all()
        assert np.isfinite(residuals(bank)).all()
    assert all(np.isfinite(array).all() for array in bank.weights())


@pytest.mark.parametrize(("loads", "stride"), [(0, 1), (1, 1), (1, 4)])
def test_a_restored_bank_goes_on_to_the_bit(loads, stride) -> None:
    temperatures, given_loads = heated(400, sensors=2)
    given_loads = given_loads[:, :loads]
    bank = predictor(sensors=2, loads=loads, stride=stride)
    fed(bank, temperatures[:250], given_loads[:250])
    saved = [array.copy() for array in bank.weights()]
    other = Predictor(2, loads, Stream(99, "other"), stride)
    other.restore(saved)
    assert np.array_equal(
        fed(bank, temperatures[250:], given_loads[250:]), fed(other, temperatures[250:], given_loads[250:])
    )
    assert all(np.array_equal(a, b) for a, b in zip(bank.weights(), other.weights(), strict=True))


def test_weights_that_are_no_numbers_are_refused() -> None:
    weights = [array.copy() for array in predictor().weights()]
    weights[3][0, 7] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        predictor().restore(weights)


def test_weights_of_another_bank_are_refused() -> None:
    for other in (predictor(sensors=2), predictor(loads=0), predictor(stride=2), predictor(loads=2, load_of=(1,))):
        with pytest.raises(ValueError, match="another bank"):
            predictor().restore(other.weights())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sensors": 0}, "0 sensors"),
        ({"loads": -1}, "-1 loads"),
        ({"stride": 0}, "stride 0"),
        ({"load_of": (1,)}, "from 0 to 0"),
        ({"load_of": (0, 0)}, "needs 1 numbers"),
    ],
)
def test_what_is_no_bank_is_refused(arguments, said) -> None:
    with pytest.raises(ValueError, match=said):
        predictor(**arguments)


@pytest.mark.parametrize("sensors", [1, 3])
def test_with_a_stride_a_step_is_so_many_cycles(sensors) -> None:
    """Every sample four times: a step of four cycles is one of the series."""
    temperatures, loads = heated(1_000, sensors=sensors)
    bank = predictor(sensors=sensors, stride=4, load_of=(0,) * sensors)
    made = fed(bank, np.repeat(temperatures, 4, axis=0), np.repeat(loads, 4, axis=0))[3::4]
    assert np.array_equal(made[:9], np.repeat(temperatures[:9, :, None], 5, axis=2))
    wrong = np.abs(made[600:990, :, 4] - temperatures[605:995])
    last = np.abs(temperatures[600:990] - temperatures[605:995])
    assert (wrong.mean(axis=0) < 0.7 * last.mean(axis=0)).all()
    known = bank.conditional(np.full((1, 5), 1.0))
    now = temperatures[-1]
    for _ in range(5):
        now = now + (70.0 - now) / 30.0
    assert np.allclose(known[:, 4], now, atol=0.2)


def test_a_step_that_would_leave_the_numbers_is_taken_back_and_counted() -> None:
    temperatures, loads = heated(100)
    bank = predictor()
    fed(bank, temperatures[:50], loads[:50])
    assert bank.rollbacks == 0
    bank.weights()[3][0, 0] = np.nan
    bank.weights()[4][0, 3] = np.nan
    made = fed(bank, temperatures[50:], loads[50:])
    assert bank.rollbacks == 2
    assert np.isfinite(made).all()
    assert all(np.isfinite(array).all() for array in bank.weights())


def test_a_surprise_has_a_large_residual() -> None:
    temperatures, loads = heated(800)
    noise = np.random.default_rng(4).normal(0.0, 0.2, temperatures.shape)
    bank = predictor()
    fed(bank, temperatures + noise, loads)
    usual = abs(residuals(bank)[0])
    bank.see(temperatures[-1] + 8.0, loads[-1])
    assert residuals(bank)[0] > 8.0 > usual


def test_recursive_least_squares_find_the_weights_of_a_line_and_stay_symmetric() -> None:
    rng = np.random.default_rng(9)
    true = rng.normal(size=(4, 2))
    cells = np.zeros(linear.linear_length(4, 2))
    linear.reset_covariance(cells, 4)
    out, gain = np.zeros(2), np.zeros(4)
    for _ in range(2_000):
        x = rng.normal(size=4)
        linear.linear_forecast(cells, 4, x, out)
        assert linear.linear_learn(cells, 4, x, x @ true - out, gain, 0.99)
    covariance = cells[:16].reshape(4, 4)
    assert np.allclose(cells[16:].reshape(4, 2), true, atol=1e-9)
    assert np.array_equal(covariance, covariance.T)
    for _ in range(100_000):  # nothing new: without a bound the covariance would grow to 0.99^-100000
        linear.linear_learn(cells, 4, np.zeros(4), np.zeros(2), gain, 0.99)
    assert covariance.trace() < 2.0 * linear.GROWTH_MAX * linear.PRIOR * 4


PROGRAM = """
import sys
from test_learn_forecast import digest
print(digest())
"""


def digest() -> str:
    """Of forecasts and state after a short series with a gap, for both kinds, with and without a stride."""
    total = hashlib.blake2b(digest_size=16)
    for loads, stride in ((0, 1), (1, 1), (1, 2)):
        temperatures, given_loads = heated(90, sensors=2, seed=8)
        temperatures[40] = UNKNOWN
        bank = predictor(sensors=2, loads=loads, stride=stride)
        total.update(fed(bank, temperatures, given_loads[:, :loads]).tobytes())
        total.update(bank.conditional(np.full((max(loads, 1), 5), 0.7)).tobytes())
        for array in bank.weights():
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def test_compiled_and_interpreted_give_the_same_bits() -> None:
    other = "python" if kernels.MODE == "numba" else ""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TWIN_KERNELS": other, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest()
