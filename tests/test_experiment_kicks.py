"""Kicks: each does what it says, and who comes back is judged so."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import shipped_scenario

from twin.cli.simulate import simulate
from twin.experiment.kicks import (
    BAND,
    MEAN_TICKS,
    METRICS,
    PULSE_TICKS,
    STAY_TICKS,
    Kick,
    Kicker,
    Steady,
    amount_of,
    judged,
    steadied,
    steady_state,
    with_ambient,
)
from twin.heart import ticks
from twin.heart.heartbeat import Heartbeat
from twin.heart.inference import RING
from twin.kernels import MODE
from twin.pool.tiers import HEAT_MAX
from twin.scenario import AmbientStep, Phase, Scenario, Workload

SETTLE, WATCH = 1_000, 2_000
KINDS = ("heat_burst", "load_pulse", "window_reset", "hot_ambient")


def small(**changes: Any) -> Scenario:
    study = shipped_scenario("study")
    heart = replace(study.heartbeat, words=64, **changes)
    return steadied(replace(study, heartbeat=heart), SETTLE + 200)


def heart_of(law: str = "adaptive", **changes: Any) -> Heartbeat:
    return Heartbeat(small(law=law, **changes).heartbeat, 1)


def kicker(heart: Heartbeat, kind: str, amount: float, at_tick: int = 0) -> Kicker:
    return Kicker(Kick(kind, at_tick, amount), heart, 100_000)


# --- what each does -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["adaptive", "reference"])
def test_a_heat_burst_heats_every_word_and_counts_the_hot_ones_anew(law: str) -> None:
    heart = heart_of(law)
    before = heart.heat.copy()
    # In the unit of the total heat: 64 words get 60 executions each.
    kicker(heart, "heat_burst", 64 * 60 * 65_536.0).cycle()
    assert np.array_equal(heart.heat, before + 60 * heart.law.heat_unit)
    assert heart.state[ticks.S_TOTAL] == heart.heat.sum()
    assert heart.state[ticks.S_HOT] == np.count_nonzero(heart.heat >= heart.law.hot_least) == 64


def test_hot_words_are_those_above_the_threshold() -> None:
    heart = heart_of(hot_executions=10)
    heart.heat_up(9.0)
    assert heart.state[ticks.S_HOT] == 0
    heart.heat_up(1.0)
    assert heart.state[ticks.S_HOT] == 64
    heart.heat_up(2.0**20)
    assert heart.heat.max() <= HEAT_MAX
    assert heart.state[ticks.S_TOTAL] == sum(heart.heat.tolist()) > 0


@pytest.mark.parametrize(("before", "amount", "after"), [
    (300, 0.0, 300), (300, 100.4, 400), (300, 1e9, RING), (RING, 500.0, RING), (256, 1.0, 257),
])  # fmt: skip
def test_a_window_reset_widens_it_towards_its_beginning(before: int, amount: float, after: int) -> None:
    heart = heart_of()
    assert heart.state[ticks.S_WINDOW] == RING
    heart.state[ticks.S_WINDOW] = before
    kicker(heart, "window_reset", amount).cycle()
    assert heart.state[ticks.S_WINDOW] == after


def test_a_load_pulse_lasts_for_256_ticks_and_no_longer() -> None:
    heart = heart_of()
    pulse = kicker(heart, "load_pulse", 0.5, at_tick=100)
    capacity = small().heartbeat.capacity_words_per_second
    for tick, kicked in ((0, False), (99, False), (100, True), (101, True), (99 + PULSE_TICKS, True),
                         (100 + PULSE_TICKS, False), (10_000, False)):  # fmt: skip
        heart.state[ticks.S_TICK] = tick
        heart.feed(100_000, None)
        pulse.cycle()
        expected = 150_000 if kicked else 100_000
        assert heart.state[ticks.S_RATE] == expected, tick
        assert heart.state[ticks.S_LOAD] == expected * 1_000_000 // capacity


def test_a_load_pulse_begins_with_the_first_cycle_however_late_that_is() -> None:
    heart = heart_of()
    pulse = kicker(heart, "load_pulse", 0.5, at_tick=100)
    for tick, rate in ((99, 100_000), (5_000, 150_000), (4_999 + PULSE_TICKS, 150_000), (5_000 + PULSE_TICKS, 100_000)):
        heart.state[ticks.S_TICK] = tick
        heart.feed(100_000, None)
        pulse.cycle()
        assert heart.state[ticks.S_RATE] == rate, tick


def test_a_kick_comes_once() -> None:
    heart = heart_of()
    burst = kicker(heart, "heat_burst", 64 * 65_536.0, at_tick=5)
    for tick, executions in ((4, 0), (7, 1), (8, 1), (5, 1)):
        heart.state[ticks.S_TICK] = tick
        burst.cycle()
        assert np.all(heart.heat == executions * heart.law.heat_unit)


def test_a_hot_ambient_is_a_step_of_the_room_for_good() -> None:
    scenario = small()
    steady = Steady({}, {}, {}, (), 1_234_567_890, 0.0)
    assert with_ambient(scenario, steady, 3.5).machine.ambient_steps == (
        AmbientStep(at_ms=1_234, celsius=scenario.machine.ambient_celsius + 3.5),
    )
    assert with_ambient(scenario, steady, 1e6).machine.ambient_steps[0].celsius == 200.0
    plain = simulate(scenario)
    hot = simulate(with_ambient(scenario, replace(steady, at_ns=200_000_000), 60.0))
    assert hot.hottest_millicelsius[:2] == plain.hottest_millicelsius[:2]
    assert sum(hot.hottest_millicelsius[4:]) > sum(plain.hottest_millicelsius[4:])


@pytest.mark.parametrize("kind", ["heat_burst", "load_pulse", "window_reset"])
def test_a_kicked_run_is_the_plain_one_until_the_kick(kind: str) -> None:
    scenario = small()
    plain = simulate(scenario).captured
    amount = {"heat_burst": 64 * 100 * 65_536.0, "load_pulse": 1.0, "window_reset": 1_000.0}[kind]
    kicked = simulate(scenario, kick=Kick(kind, SETTLE, amount)).captured
    differs = np.flatnonzero((plain != kicked).any(axis=0))
    column = {"heat_burst": ticks.C_TOTAL, "load_pulse": ticks.C_WORDS, "window_reset": ticks.C_WINDOW}[kind]
    if kind == "window_reset" and not (plain[ticks.C_WINDOW, SETTLE:] < RING).any():
        # The window has not shrunk yet, and cannot be widened.
        assert not len(differs)
        return
    # At the first control cycle (of 100 ms) after tick 1,000.
    assert SETTLE <= differs[0] <= SETTLE + 200
    first = int(np.flatnonzero(plain[column] != kicked[column])[0])
    assert kicked[column, first] > plain[column, first]
    # And no kick at all changes nothing.
    assert np.array_equal(simulate(scenario, kick=Kick(kind, 10**8, amount)).captured, plain)


# --- the steady run -------------------------------------------------------------------------------------------------


def test_a_steadied_scenario_has_the_mean_load() -> None:
    phases = (
        Phase(name="a", duration_ms=1_000, cpu_load=0.2, words_per_second=100_000, memory_share=0.4),
        Phase(name="b", duration_ms=3_000, cpu_load=0.6, words_per_second=200_000, burst_every_ms=1_000, burst_ms=250,
              burst_cpu_load=0.4, burst_words_per_second=80_000, frames_per_second=60, memory_share=0.2),
    )  # fmt: skip
    scenario = replace(shipped_scenario("sensor_faults"), workload=Workload(phases=phases))
    changing = replace(scenario.machine, ambient_steps=(AmbientStep(at_ms=5, celsius=40.0),))
    scenario = replace(scenario, machine=changing)
    assert scenario.faults
    found = steadied(scenario, 77)
    (phase,) = found.workload.phases
    assert found.ticks == 77
    assert phase.cpu_load == pytest.approx((0.2 + 3 * 0.7) / 4)
    assert phase.words_per_second == (100_000 + 3 * 220_000) // 4
    assert phase.memory_share == pytest.approx(0.25)
    assert (phase.frames_per_second, phase.burst_every_ms) == (0, 0)
    assert not found.faults
    assert found.random_faults.per_minute == 0.0
    assert found.machine == replace(changing, ambient_steps=())
    assert replace(found, ticks=None, workload=scenario.workload, faults=scenario.faults, machine=changing,
                   random_faults=scenario.random_faults) == replace(scenario, ticks=None)  # fmt: skip


def flat(count: int = SETTLE + WATCH, **values: Any) -> Any:
    """Captured ticks of a heartbeat of which every metric always is 1,000, but for these columns."""
    captured = np.zeros((ticks.COLUMNS, count), dtype=np.int64)
    for name, column in METRICS.items():
        captured[column] = values.get(name, 1_000)
    captured[ticks.C_ELAPSED] = 1_000_000 * np.arange(1, count + 1)
    return captured


def test_the_band_of_a_flat_run_is_five_percent() -> None:
    steady = steady_state(flat(), SETTLE, [40_000] * 10 + [50_000, 52_000] * 5)
    assert steady.mean == dict.fromkeys(METRICS, 1_000.0)
    assert set(steady.deviation.values()) == {0.0}
    assert steady.bands == dict.fromkeys(METRICS, BAND * 1_000.0)
    assert steady.at_ns == 1_001_000_000
    assert steady.temperature_deviation == 1_000.0


def test_what_wanders_has_more_room_and_what_is_not_steady_is_not_watched() -> None:
    count = SETTLE + WATCH
    # Half the watched time 20 above, half 20 below: each mean over 256 ticks is 20 away at most.
    step = 1_000 + np.where(np.arange(count) < SETTLE + WATCH // 2, 20, -20)
    growing = 1_000 + np.arange(count)
    steady = steady_state(flat(window_width=step, hot_word_count=growing, cache_hits_delta=0), SETTLE, [])
    assert steady.bands["window_width"] == pytest.approx(BAND * 1_000 + 20)
    assert "hot_word_count" not in steady.bands
    assert "cache_hits_delta" not in steady.bands
    assert steady.bands["tick_interval_ns"] == 50.0
    assert steady.temperature_deviation == 0.0


def test_how_strong_a_kick_is() -> None:
    deviation = {**dict.fromkeys(METRICS, 0.0), "avg_word_heat": 50.0, "word_executions_delta": 30.0}
    steady = Steady(dict.fromkeys(METRICS, 1_000.0), deviation, {}, (), 0, 250.0)
    assert amount_of("heat_burst", 2.0, steady) == 100.0
    assert amount_of("window_reset", 2.0, steady) == 20.0  # 1 % of the mean at least
    assert amount_of("load_pulse", 2.0, steady) == pytest.approx(0.06)
    assert amount_of("hot_ambient", 2.0, steady) == 1.0  # half a kelvin at least
    assert amount_of("hot_ambient", 2.0, replace(steady, temperature_deviation=4_000.0)) == 8.0
    silent = replace(steady, mean={**steady.mean, "word_executions_delta": 0.0})
    assert amount_of("load_pulse", 2.0, silent) == 0.0
    for kind in KINDS:
        amounts = [amount_of(kind, strength, steady) for strength in (1.0, 2.0, 4.0)]
        assert amounts == sorted(amounts)
        assert amounts[2] == pytest.approx(4 * amounts[0])


# --- who comes back -------------------------------------------------------------------------------------------------


STEADY = steady_state(flat(), SETTLE, [])


def judge(captured: Any, steady: Steady = STEADY) -> Any:
    return judged(captured, steady, "heat_burst", 3, 4.0, SETTLE)


def test_who_never_leaves_is_back_at_once() -> None:
    result, course = judge(flat())
    assert (result.kind, result.seed, result.strength_sigmas) == ("heat_burst", 3, 4.0)
    assert (result.returned, result.return_ticks) == (True, 0)
    assert set(course.bands) == {0.0}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("away", "lasts"), [(100, 300), (200, 500), (-100, 1), (1_000, 40), (500, 256)])
def test_a_pulse_is_over_when_its_mean_is(metric: str, away: int, lasts: int) -> None:
    values = np.full(SETTLE + WATCH, 1_000)
    values[SETTLE : SETTLE + lasts] += away
    result, course = judge(flat(**{metric: values}))
    # The mean over 256 ticks, of which n are in the pulse, is n * away / 256 away: outside while that is above 50.
    inside = int(50 * MEAN_TICKS / abs(away))
    if min(lasts, MEAN_TICKS) <= inside:
        expected = 0
    else:
        expected = lasts + MEAN_TICKS - 1 - inside
    assert result.returned
    assert result.return_ticks == expected
    top = min(lasts, MEAN_TICKS) * abs(away) / MEAN_TICKS / 50
    assert max(course.bands) == pytest.approx(top, rel=0.05) or max(course.bands) <= top
    assert len(course.ticks) == len(course.bands) <= 200


@pytest.mark.parametrize("stays", [0, 1, STAY_TICKS - 1, STAY_TICKS, STAY_TICKS + 1])
def test_back_is_who_stays_for_a_thousand_ticks(stays: int) -> None:
    # The mean leaves the band with the last tick that is 12,801 higher or more, alone among 256.
    values = np.full(SETTLE + WATCH, 1_000)
    values[SETTLE + WATCH - stays - MEAN_TICKS] += 13_000
    result, _ = judge(flat(window_width=values))
    assert result.returned is (stays >= STAY_TICKS)
    assert result.return_ticks == (WATCH - stays if stays >= STAY_TICKS else None)


def test_who_settles_elsewhere_is_not_back() -> None:
    values = np.full(SETTLE + WATCH, 1_000)
    values[SETTLE:] += 51
    result, _ = judge(flat(tick_interval_ns=values))
    assert (result.returned, result.return_ticks) == (False, None)
    values[SETTLE:] -= 1
    # The edge of the band is in it.
    assert judge(flat(tick_interval_ns=values))[0].returned


def test_what_is_not_watched_does_not_count() -> None:
    bands = {name: band for name, band in STEADY.bands.items() if name != "window_width"}
    wild = flat(window_width=np.arange(SETTLE + WATCH) * 100)
    assert not judge(wild)[0].returned
    assert judge(wild, replace(STEADY, bands=bands))[0].return_ticks == 0
    assert judge(wild, replace(STEADY, bands={}))[0].return_ticks == 0


@given(
    noise=st.integers(0, 2**32 - 1), size=st.integers(0, 45), away=st.integers(-2_000, 2_000), lasts=st.integers(0, 900)
)
@settings(max_examples=40)
def test_a_stronger_kick_is_never_back_sooner(noise: int, size: int, away: int, lasts: int) -> None:
    chance = np.random.default_rng(noise)
    plain = flat(window_width=1_000 + chance.integers(-size, size + 1, SETTLE + WATCH))
    steady = steady_state(plain, SETTLE, [])
    assert judge(plain, steady)[0].return_ticks == 0
    back = -1
    for strength in (1, 2, 4):
        kicked = plain.copy()
        kicked[ticks.C_WINDOW, SETTLE : SETTLE + lasts] += abs(away) * strength
        result, course = judge(kicked, steady)
        took = WATCH if result.return_ticks is None else result.return_ticks
        # A pulse only upwards, over noise below the band: each strength lies farther out, for as long or longer.
        if took and back > 0:
            assert took >= back - size
        back = max(back, took)
        assert course.ticks == tuple(range(0, WATCH, WATCH // 200))


def test_interpreted_kernels_are_kicked_alike(tmp_path: Path) -> None:
    if MODE != "numba":
        pytest.skip("kernels are interpreted in this test run anyway")
    code = (
        "import test_experiment_kicks as t\n"
        "for kind, amount in (('heat_burst', 1e9), ('load_pulse', 0.7)):\n"
        "    print(t.digest_of(kind, amount))\n"
    )
    env = {**os.environ, "TWIN_KERNELS": "python", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest_of("heat_burst", 1e9), digest_of("load_pulse", 0.7)]


def digest_of(kind: str, amount: float) -> str:
    scenario = replace(small(), ticks=400)
    return simulate(scenario, kick=Kick(kind, 150, amount)).recorded.ticks.digest
