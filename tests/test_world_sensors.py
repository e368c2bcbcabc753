"""Temperature sensors: lag, hold, offset, noise, quantum."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from world_cases import Run, one_node, scenario

from twin import wiring as wirings
from twin.clock import VirtualEnvironment
from twin.kernels import draw32, stream_keys
from twin.world import World


def _run(seed: int = 1, **sensor: Any) -> Run:
    machine = one_node(2.0, 50.0)
    plain = replace(machine.sensors[0], quantum_millicelsius=1, hold_ms=20)
    return Run(scenario(replace(machine, sensors=(replace(plain, **sensor),)), seed=seed))


def _shown(run: Run) -> int:
    value = run.values()["cpu_temp_millicelsius"]
    assert value is not None
    return value


def _true(run: Run) -> float:
    return run.world.true_temperatures_celsius["lump"] * 1_000


def test_a_plain_sensor_shows_the_truth() -> None:
    run = _run()
    for second in (0.0, 0.02, 1.0, 60.0):
        assert _shown(run.after_events(second)) == pytest.approx(_true(run), abs=0.5)


def test_quantum_floors_and_offset_comes_before_it() -> None:
    run = _run(quantum_millicelsius=500, offset_millicelsius=-130).after_events(7.0)
    assert _shown(run) == (round(_true(run)) - 130) // 500 * 500


def test_the_element_lags_and_the_hold_keeps_a_sample() -> None:
    run = _run(lag_ms=1_000)
    felt = 24_000.0
    for step in range(1, 100):
        run.after_events(step * 0.02)
        felt += (1.0 - math.exp(-0.02)) * (_true(run) - felt)
        assert _shown(run) == pytest.approx(felt, abs=0.51)
    run = _run(hold_ms=1_000)
    run.after_events(3.0)
    sample = _shown(run)
    assert _shown(run.after_events(3.98)) == sample < _true(run) - 5
    assert _shown(run.after_events(4.0)) == pytest.approx(_true(run), abs=0.5)


def test_noise_is_the_stream_of_the_channel() -> None:
    run = _run(seed=7, noise_millicelsius=300)
    key0, key1 = stream_keys(7, "sensor.cpu_temp_millicelsius")
    seen = set()
    for step in range(200):
        run.after_events(step * 0.02)
        noise = (draw32(key0, key1, step) * 601 >> 32) - 300
        assert _shown(run) == pytest.approx(_true(run) + noise, abs=0.51)
        seen.add(noise)
    assert min(seen) < -250
    assert max(seen) > 250
    assert all(-300 <= noise <= 300 for noise in seen)


def test_sensing_changes_nothing() -> None:
    quiet, asked = _run(noise_millicelsius=300), _run(noise_millicelsius=300)
    for step in range(100):
        asked.until(step * 0.1 + 0.05)
        assert asked.world.sense() == asked.world.sense()
    assert asked.until(10).world.sense() == quiet.until(10).world.sense()


def test_a_wiring_of_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="wiring is not that of"):
        World(VirtualEnvironment(), scenario(), wirings.wiring(one_node()))
