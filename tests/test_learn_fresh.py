"""What a run that begins with a checkpoint takes for unusual: nothing that only has not been seen twice yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from running import here, quick, run, shipped_scenario
from strategies import SCENARIO, WIRING, readings

from twin.control.choose import make_controller
from twin.control.signals import Signals
from twin.learn.anomaly import WARM_UP_CYCLES, AnomalyDetector
from twin.learn.features import UNKNOWN
from twin.scenario import Learn, RandomFaults
from twin.timing import Wake
from twin.wiring import wiring

RUNS = ("gaming", "burst", "idle", "esports", "render", "steps", "soak", "recorded", "hot_ambient", "fan_failure")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fresh") / "weights"
    here("train", "gaming", "steps", "--seeds", 1, "--out", path)
    return path


@pytest.mark.parametrize("learning", [True, False])
def test_false_alarms_in_ten_runs_from_a_checkpoint_are_below_one_per_cent(trained: Path, learning: bool) -> None:
    alarmed, cycles = {}, 0
    for name in RUNS:
        # Long enough for the first cycles to count, and over before a fan fails.
        scenario = replace(shipped_scenario(name), seed=71, faults=(), random_faults=RandomFaults())
        # To one that does not learn, a room that warms up by more than any it has seen is unusual.
        machine = scenario.machine if learning else replace(scenario.machine, ambient_steps=())
        scenario = quick(
            replace(scenario, machine=machine),
            duration_ms=30_000,
            learn=Learn(enabled=True, learning=learning),
        )
        limits = {limit.name: limit for limit in wiring(scenario.machine).outputs}
        kept = run(scenario, make_controller(scenario, limits, trained), file=name)
        anomalies = [cycle.learned.anomaly_micro or 0 for cycle in kept.cycles if cycle.learned]
        alarmed[name] = sum(anomaly > 1_000_000 for anomaly in anomalies)
        cycles += len(anomalies)
    print(f"alarms from a checkpoint on, of {cycles // len(RUNS)} cycles each: {alarmed}")
    assert sum(alarmed.values()) * 100 <= cycles
    assert alarmed["gaming"] == 0


def test_nothing_is_missed_in_a_fresh_cycle() -> None:
    detector = AnomalyDetector(2, 1)
    state, residuals = np.full(8, 0.5), np.zeros(2)
    there, gone = np.ones(2, dtype=np.int64), np.array([1, 0])
    for _ in range(WARM_UP_CYCLES + 1):
        detector.see(state, residuals, there, True)
    blind = np.full(8, UNKNOWN)
    assert not detector.see(blind, residuals, gone, False, fresh=True)
    assert not detector.see(state, residuals, there, True)
    assert detector.see(state, residuals, gone, True)
    assert detector.see(blind, residuals, there, True)
    detector.forget()
    assert not detector.see(state, residuals, there, True)


def test_the_first_cycle_and_the_one_after_a_suspend_are_fresh() -> None:

    signals = Signals(SCENARIO, WIRING.sensors)
    wakes = [Wake(0, 0), Wake(5, 0), Wake(0, 10**9), Wake(0, 0)]
    seen = [signals.see(i, i * 10**8, wake, readings({}, i * 10**8)).fresh for i, wake in enumerate(wakes)]
    assert seen == [True, False, True, False]
