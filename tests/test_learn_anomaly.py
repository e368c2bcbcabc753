"""The anomaly detector: what it finds in simulated machines, and that nothing can lead it astray."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from hashlib import blake2b

import numpy as np
import pytest
from anomaly_runs import FANS, STATES, TARGETS, Job, Verdicts, auroc, fault_jobs, table, verdicts
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from profiles import NIGHTLY
from scipy.stats import mannwhitneyu
from strategies import view

from twin.kernels import MODE, Stream
from twin.learn.anomaly import (
    ALARM,
    CENTRE,
    DRIFT,
    ERROR_QUANTILE,
    FEATURE_CELLS,
    FEATURE_COUNT,
    HEADER,
    MARGIN,
    MISSING,
    MOST_QUANTILE,
    QUANTILE,
    RESIDUAL_CELLS,
    SIGHTS,
    SPREAD,
    WARM_UP_CYCLES,
    AnomalyDetector,
)
from twin.learn.evidence import Evidence, is_normal
from twin.learn.facts import fill_facts, new_facts
from twin.learn.features import UNKNOWN
from twin.scenario import Machine

BARS = {state: 0.85 if state in ("stuck", "slow", "delayed") else 0.95 for state in (*STATES, "failing fan")}
RESIDUALS = 3


# --- what it finds ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normal() -> list[Verdicts]:
    """Runs without faults, with seeds and a scenario that no constant was chosen by."""
    if NIGHTLY:
        names = ("gaming", "burst", "steps", "soak", "idle", "hot_ambient", "recorded", "fan_failure", "sensor_faults")
        return [verdicts(Job(name, 41)) for name in names]
    return [verdicts(Job(name, 41, warm_up_s=200)) for name in ("gaming", "hot_ambient")]


def test_every_state_is_told_from_normal_cycles(normal: list[Verdicts]) -> None:
    if NIGHTLY:
        jobs = fault_jobs(("gaming", "burst", "steps", "soak"), 42, TARGETS, FANS)
    else:
        jobs = fault_jobs(("gaming",), 42, ("cpu", "cpu_energy_microjoules"), ("cpu_fan",))
    rows = table([verdicts(job) for job in jobs], normal)
    print({row: tuple(round(value, 3) for value in values[:2]) for row, values in rows.items()})
    assert rows.keys() == BARS.keys()
    assert all(rows[row][0] >= bar for row, bar in BARS.items())


def test_normal_cycles_give_next_to_no_alarm(normal: list[Verdicts]) -> None:
    for run in normal:
        assert len(run.alarms) >= 1_400
        assert run.alarms.mean() <= 0.01, run.job


@given(st.lists(st.integers(-5, 5), min_size=1), st.lists(st.integers(-5, 5), min_size=1))
def test_auroc_is_that_of_scipy(positives: list[int], negatives: list[int]) -> None:
    a, b = np.array(positives, dtype=np.float64), np.array(negatives, dtype=np.float64)
    expected = mannwhitneyu(a, b).statistic / (len(a) * len(b))
    assert auroc(a, b) == pytest.approx(expected, abs=1e-12)


# --- by hand ----------------------------------------------------------------------------------------------------------


def ordinary(stream: Stream) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cycle of a machine with two modes of work and even noise."""
    busy = stream.below(2)
    noise = [stream.next32() / 2**31 - 1.0 for _ in range(FEATURE_COUNT + RESIDUALS)]
    state = np.array([0.3 + 0.3 * busy + 0.05 * n for n in noise[:FEATURE_COUNT]])
    return state, np.array(noise[FEATURE_COUNT:]), np.ones(RESIDUALS, dtype=np.int64)


def feed(detector: AnomalyDetector, stream: Stream, cycles: int) -> list[tuple[float, bool]]:
    seen = []
    for _ in range(cycles):
        detector.see(*ordinary(stream), True)
        seen.append((detector.score, detector.alarm))
    return seen


@cache
def _experienced() -> tuple[bytes, bytes]:
    detector = AnomalyDetector(RESIDUALS, 1)
    feed(detector, Stream(1, "experience"), WARM_UP_CYCLES + 400)
    arrays = detector.arrays()
    return arrays["net"].tobytes(), arrays["cells"].tobytes()


def experienced() -> AnomalyDetector:
    detector = AnomalyDetector(RESIDUALS, 1)
    net, cells = _experienced()
    detector.restore({"net": np.frombuffer(net), "cells": np.frombuffer(cells)})
    return detector


def digest(detector: AnomalyDetector) -> str:
    arrays = detector.arrays()
    return blake2b(arrays["net"].tobytes() + arrays["cells"].tobytes(), digest_size=16).hexdigest()


def what_is_learned(detector: AnomalyDetector) -> tuple[bytes, list[float]]:
    cells = detector.arrays()["cells"]
    first = HEADER + FEATURE_CELLS * FEATURE_COUNT
    learned = [cells[QUANTILE], cells[ERROR_QUANTILE], float(detector.learned_cycles)]
    learned += cells[HEADER + SIGHTS : first : FEATURE_CELLS].tolist()
    for cell in (SIGHTS, CENTRE, SPREAD, DRIFT):
        learned += cells[first + cell :: RESIDUAL_CELLS].tolist()
    return detector.weights().tobytes(), learned


def test_the_autoencoder_has_98_parameters_and_learns() -> None:
    detector = AnomalyDetector(RESIDUALS, 1)
    assert detector.weights().shape == (98,)
    before = detector.weights().copy()
    feed(detector, Stream(1, "any"), 10)
    assert (detector.weights() != before).any()
    assert experienced().arrays()["cells"][ERROR_QUANTILE] < 0.1


@pytest.mark.parametrize("sensor", range(RESIDUALS))
def test_a_far_residual_is_an_alarm_and_names_its_cause(sensor: int) -> None:
    detector = experienced()
    state, residuals, usable = ordinary(Stream(5, "far"))
    residuals[sensor] = -9.0
    before = what_is_learned(detector)
    assert detector.see(state, residuals, usable, True)
    assert detector.cause(("a", "b", "c")) == "abc"[sensor]
    assert what_is_learned(detector) == before


def test_a_small_shift_that_stays_is_an_alarm_before_long_and_ends_with_it() -> None:
    detector, stream = experienced(), Stream(6, "shift")
    alarms = []
    for cycle in range(400):
        state, residuals, usable = ordinary(stream)
        if cycle < 60:
            # Every value lies where healthy ones do.
            residuals[1] = 0.8 + 0.1 * residuals[1]
        alarms.append(detector.see(state, residuals, usable, True))
    assert not any(alarms[:5])
    assert all(alarms[40:60])
    assert not any(alarms[200:])


def test_what_is_usually_there_is_missed_at_once_and_forgiven_later() -> None:
    detector, stream = experienced(), Stream(7, "gone")
    state, residuals, usable = ordinary(stream)
    usable[2] = 0
    assert detector.see(state, residuals, usable, True)
    assert detector.score >= MISSING
    assert detector.cause(("a", "b", "c")) == "c"
    state, residuals, usable = ordinary(stream)
    state[4] = UNKNOWN
    assert detector.see(state, residuals, usable, True)
    assert detector.cause(("a", "b", "c")) == "power"
    assert not any(alarm for _, alarm in feed(detector, stream, 200)[100:])


def test_what_is_missing_is_missed_during_the_warm_up_too() -> None:
    detector, stream = AnomalyDetector(RESIDUALS, 1), Stream(8, "early")
    assert not any(alarm for _, alarm in feed(detector, stream, 20))
    state, residuals, usable = ordinary(stream)
    usable[0] = 0
    assert detector.see(state, residuals, usable, True)


def test_what_was_never_there_is_not_missed_and_an_application_may_end() -> None:
    detector, stream = AnomalyDetector(RESIDUALS, 1), Stream(9, "never")
    for cycle in range(WARM_UP_CYCLES + 200):
        state, residuals, usable = ordinary(stream)
        state[3] = UNKNOWN
        usable[1] = 0
        if cycle > WARM_UP_CYCLES + 100:
            state[5] = state[6] = UNKNOWN
        assert not detector.see(state, residuals, usable, True)


def test_nothing_is_learned_from_a_cycle_that_is_not_normal() -> None:
    detector = experienced()
    before = what_is_learned(detector)
    detector.see(*ordinary(Stream(10, "abnormal")), False)
    assert what_is_learned(detector) == before


def test_the_gates_say_what_is_normal() -> None:
    assert is_normal(view((50_000, 50_000, 30_000)))
    assert not is_normal(view((50_000, 50_000, 30_000), failsafe="a reason"))
    assert not is_normal(view((50_000, 50_000, 30_000))._replace(suspicion="a reason"))
    assert not is_normal(view((50_000, 50_000, 30_000))._replace(fan_trouble="a reason"))


def test_a_slow_change_for_the_worse_cannot_lead_the_threshold_away() -> None:
    detector, stream = experienced(), Stream(11, "worse")
    for cycle in range(6_000):
        state, residuals, usable = ordinary(stream)
        detector.see(state, residuals * (1.0 + cycle / 300), usable, True)
        assert detector.threshold <= MARGIN * MOST_QUANTILE


# --- nothing poisons it -----------------------------------------------------------------------------------------------

anything = st.one_of(
    st.floats(width=64), st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -1e308, UNKNOWN, 5e-324]), st.floats(-2, 2)
)
hostile = st.lists(
    st.tuples(
        arrays_of.arrays(np.float64, FEATURE_COUNT, elements=anything),
        arrays_of.arrays(np.float64, RESIDUALS, elements=anything),
        arrays_of.arrays(np.int64, RESIDUALS, elements=st.integers(-1, 2)),
        st.booleans(),
    ),
    max_size=40,
)


@given(hostile, st.booleans())
def test_no_input_poisons_it(cycles: list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]], fresh: bool) -> None:
    detector = AnomalyDetector(RESIDUALS, 2) if fresh else experienced()
    for state, residuals, usable, normal_ in cycles:
        detector.see(state, residuals, usable, normal_)
        assert np.isfinite(detector.score)
        assert all(np.isfinite(values).all() for values in detector.arrays().values())
        assert detector.alarm == bool(detector.arrays()["cells"][ALARM])
    if not fresh:
        stream = Stream(12, "after")
        feed(detector, stream, 300)
        assert not any(alarm for _, alarm in feed(detector, stream, 50))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(RESIDUALS))
def test_a_residual_that_is_no_number_is_missing(bad: float, place: int) -> None:
    detector = experienced()
    state, residuals, usable = ordinary(Stream(13, "nan"))
    residuals[place] = bad
    assert detector.see(state, residuals, usable, True)
    assert detector.cause(("a", "b", "c")) == "abc"[place]


def test_other_lengths_are_refused() -> None:
    detector = AnomalyDetector(RESIDUALS, 1)
    good = ordinary(Stream(1, "any"))
    for place in range(3):
        wrong = [values[:-1] if i == place else values for i, values in enumerate(good)]
        with pytest.raises(ValueError, match=r"give 8, 3 and 3"):
            detector.see(*wrong, True)
    with pytest.raises(ValueError, match="residuals is -1"):
        AnomalyDetector(-1, 1)


# --- the same bits ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 1_500), st.integers(0, 100))
def test_a_restored_detector_goes_on_bit_for_bit(before: int, seed: int) -> None:
    detector, stream = AnomalyDetector(RESIDUALS, seed), Stream(seed, "kept")
    feed(detector, stream, before)
    other, same = AnomalyDetector(RESIDUALS, seed + 1), Stream(seed, "kept")
    same.counter = stream.counter
    other.restore(detector.arrays())
    assert digest(other) == digest(detector)
    assert feed(other, same, 50) == feed(detector, stream, 50)
    assert digest(other) == digest(detector)


def test_arrays_are_copies_and_bad_ones_are_refused_whole() -> None:
    detector = experienced()
    before = digest(detector)
    arrays = detector.arrays()
    arrays["net"][:] = 0.0
    assert digest(detector) == before
    good = AnomalyDetector(RESIDUALS, 3).arrays()
    broken = good["cells"].copy()
    broken[QUANTILE] = np.nan
    for bad, words in (
        ({"net": good["net"]}, "cells of the anomaly detector is missing"),
        ({**good, "cells": good["cells"][:-1]}, "must be float64"),
        ({**good, "net": good["net"].astype(np.float32)}, "is float32"),
        ({**good, "cells": broken}, "not finite"),
        ({**good, "net": good["net"] + 1e7}, "weights beyond"),
    ):
        with pytest.raises(ValueError, match=words):
            detector.restore(bad)
        assert digest(detector) == before


def test_evidence_of_a_view_in_which_nothing_is_known() -> None:
    evidence = Evidence(Machine())
    residuals, usable = np.zeros(len(evidence.names)), np.ones(len(evidence.names), dtype=np.int64)
    empty = view((None, None, None))._replace(
        temps_millicelsius=(None,) * 3,
        expected_millicelsius=(None,) * 3,
        fan_rpm=(None,) * 3,
        cpu_power_microwatts=None,
        cpu_clock_kilohertz=None,
        cpu_load_ppm=None,
    )
    facts = new_facts(3, 3)
    fill_facts(empty, facts)
    evidence.fill(facts, residuals, usable)
    assert not usable.any()
    assert not residuals.any()


PROGRAM = """
import sys
sys.path.insert(0, "tests")
from test_learn_anomaly import digest, feed
from twin.kernels import Stream
from twin.learn.anomaly import AnomalyDetector
detector = AnomalyDetector(3, 9)
stream = Stream(9, "bits")
scores = feed(detector, stream, 900)
print(digest(detector), repr(scores[-1][0]))
"""


@pytest.mark.skipif(MODE != "numba", reason="kernels are interpreted in this test run anyway")
def test_interpreted_kernels_give_the_bits_of_compiled_ones() -> None:
    detector = AnomalyDetector(3, 9)
    scores = feed(detector, Stream(9, "bits"), 900)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TWIN_KERNELS": "python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest(detector), repr(scores[-1][0])]
