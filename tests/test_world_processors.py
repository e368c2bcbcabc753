"""CPU and GPU: power, clocks, limits, counters."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world_cases import FULL_FANS, Run, one_node, scenario

from twin.scenario import Cpu, Gpu, Machine
from twin.world import cpu
from twin.world.cpu import cpu_constants
from twin.world.gpu import gpu_constants
from twin.world.processor import clock_table, use_at, watts_at

LEVELS = Cpu().frequencies_kilohertz
MACHINE = Machine()


def _cpu(**changes: object) -> Machine:
    return replace(MACHINE, cpu=replace(MACHINE.cpu, **changes))  # type: ignore[arg-type]


def test_power_is_the_formula() -> None:
    cpu = Cpu()
    watts = watts_at(cpu_constants(cpu, 20), 5e6, 1.32, 0.6, 80.0)
    leakage = 1.32 * cpu.leakage_amperes * math.exp(cpu.leakage_per_kelvin * 30.0)
    expected = 8 * cpu.capacitance_nanofarad * 1e-9 * 1.32**2 * 5e9 * 0.6
    expected += leakage * (0.6 + 0.4 * cpu.idle_leakage_share) + cpu.idle_watts
    assert watts == pytest.approx(expected, rel=1e-14)


@given(low=st.floats(-50.0, 149.0), more=st.floats(0.1, 50.0))
def test_hotter_silicon_leaks_more_but_not_without_end(low: float, more: float) -> None:
    constants = gpu_constants(Gpu(), 20)
    assert watts_at(constants, 1e6, 0.8, 0.5, low) < watts_at(constants, 1e6, 0.8, 0.5, min(low + more, 150.0))
    assert watts_at(constants, 1e6, 0.8, 0.5, 150.0) == watts_at(constants, 1e6, 0.8, 0.5, 1e9)


def test_use_is_a_share_and_frames_occupy_one_core() -> None:
    assert use_at(8.0, 1e6, 0.0, 5e5) == pytest.approx(0.5 / 8)
    assert use_at(8.0, 1e6, 0.0, 9e9) == pytest.approx(1 / 8)
    assert use_at(8.0, 1e6, 5e6, 9e9) == 1.0


@pytest.mark.parametrize("load", [0.0, 0.1, 0.128, 0.13, 0.3, 0.5, 0.6, 0.79, 0.81, 1.0])
def test_the_governor_takes_the_lowest_clock_that_serves_at_80_percent(load: float) -> None:
    run = Run(scenario(_cpu(pl1_watts=500.0, pl2_watts=500.0), cpu_load=load)).command(**FULL_FANS).until(1)
    needed = load * LEVELS[-1] / 0.8
    expected = next((clock for clock in LEVELS if clock >= needed - 1e-3), LEVELS[-1])
    assert run.values()["cpu_clock_kilohertz"] == expected


def test_the_commanded_maximum_holds_and_slows_the_work() -> None:
    run = Run(scenario(cpu_load=1.0)).command(cpu_max_kilohertz=3_100_000).until(2)
    assert run.values()["cpu_clock_kilohertz"] == 3_000_000
    assert run.world.commanded("cpu_max_kilohertz") == 3_100_000


def test_pl1_is_kept_on_average_and_pl2_at_once() -> None:
    run = Run(scenario(cpu_load=1.0)).command(**FULL_FANS)
    plant = run.world.plant
    peak = 0.0
    for step in range(1, 3_000):
        run.until(step * 0.02)
        peak = max(peak, plant.cpu_watts)
        assert plant.cpu_watts <= 142.0 + 0.5
        assert plant.cpu_average_watts <= 105.0 + 0.1
    assert peak > 110.0
    assert plant.cpu_average_watts == pytest.approx(105.0, abs=1.0)


def test_a_lower_commanded_limit_is_reached_within_a_few_windows() -> None:
    machine = _cpu(pl1_window_ms=1_000)
    run = Run(scenario(machine, cpu_load=1.0)).until(10).command(cpu_power_limit_microwatts=60_000_000)
    assert run.until(20).world.plant.cpu_average_watts <= 60.1
    assert run.until(30).world.plant.cpu_average_watts == pytest.approx(60.0, abs=1.5)


def test_the_average_follows_its_window() -> None:
    machine = replace(one_node(), cpu=replace(one_node().cpu, pl1_window_ms=2_000, leakage_amperes=20.0))
    run = Run(scenario(machine, cpu_load=1.0))
    average = machine.cpu.idle_watts
    for step in range(1, 200):
        run.until(step * 0.02 + 0.001)
        average += (1.0 - math.exp(-0.02 / 2.0)) * (run.world.plant.cpu_watts - average)
        assert run.world.plant.cpu_average_watts == pytest.approx(average, rel=1e-12)


def test_the_trip_steps_the_clock_down_and_the_hysteresis_lets_it_up_again() -> None:
    machine = replace(one_node(5.0, 2.0), ambient_celsius=50.0)
    cpu = replace(
        machine.cpu, capacitance_nanofarad=5.0, pl1_watts=900.0, pl2_watts=900.0, trip_celsius=85.0,
        trip_hysteresis_celsius=2.0,
    )  # fmt: skip
    run = Run(scenario(replace(machine, cpu=cpu), cpu_load=1.0))
    clocks, hottest = [], 0.0
    for step in range(1, 1_000):
        run.until(step * 0.02 + 0.001)
        clock = run.values()["cpu_clock_kilohertz"]
        celsius = run.world.true_temperatures_celsius["lump"]
        hottest = max(hottest, celsius)
        if clocks and clock < clocks[-1]:
            assert celsius >= 85.0
            assert LEVELS.index(clocks[-1]) - LEVELS.index(clock) == 1
        if clocks and clock > clocks[-1] and step > 2:
            assert celsius < 83.0
        clocks.append(clock)
    assert min(clocks[5:]) < LEVELS[-1]
    assert len({*clocks[500:]}) > 1
    assert hottest < 100.0


def test_busy_and_total_ticks_count_core_time() -> None:
    run = Run(scenario(_cpu(pl1_watts=900.0, pl2_watts=900.0), cpu_load=1.0)).command(**FULL_FANS).until(10.001)
    values = run.values()
    assert values["cpu_total_ticks"] == 8 * 100 * 10
    # Saturated from the first step on: the slowest clock serves a full load at 100 % too.
    assert values["cpu_busy_ticks"] == 8 * 100 * 10
    half = Run(scenario(cpu_load=0.08)).until(10.001).values()
    assert half["cpu_busy_ticks"] == pytest.approx(0.5 * 8_000, abs=1)


def test_the_energy_counter_is_power_times_time_and_wraps() -> None:
    run = Run(scenario(one_node())).until(100.001)
    assert run.values()["cpu_energy_microjoules"] == pytest.approx(1_000_000_000, abs=1)
    machine = replace(one_node(), cpu=replace(one_node().cpu, energy_wrap_microjoules=299_999_999))
    run = Run(scenario(machine)).until(100.001)
    # 1,000 J in a counter that holds 300,000,000 values.
    assert run.values()["cpu_energy_microjoules"] == pytest.approx(100_000_000, abs=1)


def test_the_gpu_shows_whole_percent_and_whole_milliwatts() -> None:
    run = Run(scenario(gpu_load=0.437)).until(5)
    values = run.values()
    needed = 0.437 * 2_400_000
    clock = values["gpu_clock_kilohertz"]
    assert clock == 1_500_000
    assert values["gpu_busy_ppm"] == int(needed / clock * 100) * 10_000
    assert values["gpu_power_microwatts"] % 1_000 == 0
    assert values["gpu_power_microwatts"] == pytest.approx(run.world.plant.gpu_watts * 1e6, rel=1e-3)


@pytest.mark.parametrize("limit_watts", [60, 100, 150])
def test_the_gpu_power_cap_holds(limit_watts: int) -> None:
    run = Run(scenario(gpu_load=1.0)).command(**FULL_FANS).until(5)
    assert run.world.plant.gpu_watts > 150.0
    run.command(gpu_power_limit_microwatts=limit_watts * 1_000_000)
    for step in range(1, 100):
        run.until(6 + step * 0.02)
        assert run.world.plant.gpu_watts <= limit_watts * 1.001
    assert run.world.plant.gpu_watts > limit_watts * 0.6


def test_the_gpu_slows_down_when_hot() -> None:
    machine = replace(MACHINE, gpu=replace(MACHINE.gpu, slowdown_celsius=50.0))
    run = Run(scenario(machine, gpu_load=1.0)).until(600)
    assert run.world.maxima_celsius["gpu_die"] < 53.0
    assert run.values()["gpu_clock_kilohertz"] < 2_100_000


def test_without_a_gpu_there_is_none() -> None:
    machine = replace(MACHINE, gpu=replace(MACHINE.gpu, enabled=False))
    run = Run(scenario(machine, gpu_load=1.0, frames_per_second=60)).until(20)
    assert not any(name.startswith("gpu_busy") for name in run.values())
    assert run.world.true_temperatures_celsius["gpu_die"] < 26.0


def test_clock_tables_are_checked() -> None:
    with pytest.raises(ValueError, match="2 clocks have 1 voltages"):
        clock_table((1, 2), (700,))
    with pytest.raises(ValueError, match="clocks must rise"):
        clock_table((2, 1), (700, 800))


def test_cores_fill_up_one_by_one() -> None:
    """Half a load on two cores, and frames all the time on one of them: three halves, not two."""
    machine = Cpu(cores=2)
    step_ns = 20_000_000
    constants = cpu.cpu_constants(machine, 20)
    table = clock_table(machine.frequencies_kilohertz, machine.voltages_millivolt)
    state, counters = cpu.cpu_state(machine)
    counters[cpu.LEVEL] = len(table) - 1
    watts = cpu.cpu_work(constants, table, state, counters, step_ns, 500_000 * step_ns, step_ns, -1, 50.0)
    assert counters[cpu.BUSY_NS] == step_ns + step_ns // 2
    assert watts == pytest.approx(watts_at(constants, table[-1, 0], table[-1, 1], 0.75, 50.0))
