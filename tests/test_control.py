"""Gates, the thermal model, counters, PID and rules, one by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from running import quick, run, shipped_scenario
from strategies import LIMITS, SCENARIO, WIRING, readings, view

from hardware.interface import Status
from twin.control.choose import ControllerError, make_controller
from twin.control.gate import LAGGED, SUSPECTED, Gate, GateSettings, compare, suspicion
from twin.control.model import ThermalModel, conduct, pull, settle, step
from twin.control.pid import Loops, Pid
from twin.control.rules import RulesPid
from twin.control.signals import Signals
from twin.control.view import NOTHING
from twin.loader import parse
from twin.scenario import AmbientStep, Edge, Fault, Machine, Node, Phase
from twin.timing import Wake

CYCLE = 100_000_000


def gate() -> Gate:
    return Gate(GateSettings("cpu", 4_000, 8_000, 6_000, hold_ms=100, period_ms=100))


# --- gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_reading_that_failed_is_in_trouble_with_its_reason(status) -> None:
    one = gate()
    one.see(None, status, 0, 0)
    assert one.believed is None
    assert status.words in one.trouble


@pytest.mark.parametrize("value", [-128_000, -20_001, 125_001, 127_000, 255_000])
def test_sentinels_are_out_of_range(value) -> None:
    one = gate()
    one.see(value, Status.OK, 0, 0)
    assert one.believed is None
    assert "outside" in one.trouble


def test_an_old_reading_is_not_believed() -> None:
    one = gate()
    one.see(50_000, Status.OK, 0, 2 * CYCLE)
    assert one.believed == 50_000
    one.see(50_000, Status.OK, 0, 2 * CYCLE + 1)
    assert one.believed is None


@pytest.mark.parametrize("sign", [1, -1])
def test_a_jump_is_not_believed_once_and_a_new_level_then_is(sign) -> None:
    one = gate()
    one.see(50_000, Status.OK, 0, 0)
    one.see(50_000 + sign * 20_000, Status.OK, CYCLE, CYCLE)
    assert one.believed is None
    assert "jumped" in one.trouble
    one.see(50_000 + sign * 20_000, Status.OK, 2 * CYCLE, 2 * CYCLE)
    assert one.believed == 50_000 + sign * 20_000


@given(st.integers(6_001, 60_000), st.sampled_from([1, -1]))
def test_parting_from_the_model_twice_is_suspicious_and_agreeing_again_is_not(apart, sign) -> None:
    sensors = np.array([[6_000, 50_000 - sign * apart, 0, 0]])
    compare(sensors, 0, 50_000)
    assert not sensors[0, SUSPECTED]
    compare(sensors, 0, 50_000)
    assert sensors[0, SUSPECTED] == sign * apart
    assert ("hotter" if sign > 0 else "colder") in suspicion("cpu", int(sensors[0, SUSPECTED]))
    sensors[0, LAGGED] = 50_000 - sign * 4_000
    compare(sensors, 0, 50_000)
    assert sensors[0, SUSPECTED] == sign * 4_000  # not yet below half the tolerance
    compare(sensors, 0, NOTHING)
    assert sensors[0, SUSPECTED] == sign * 4_000
    sensors[0, LAGGED] = 50_000 - sign * 2_000
    compare(sensors, 0, 50_000)
    assert not sensors[0, SUSPECTED]


# --- the model --------------------------------------------------------------------------------------------------------


def advance(model: ThermalModel, heat_watts: np.ndarray, fan_rpm: np.ndarray, seconds: float) -> None:
    capacity, ends, edges, max_rpm = model.constants
    conduct(model.celsius, ends, edges, max_rpm, fan_rpm, model.conductance)
    step(model.celsius, capacity, ends, model.conductance, heat_watts, seconds)


def test_the_model_steps_one_node_as_an_exponential_does() -> None:
    machine = Machine(
        nodes=(Node(name="cpu_die", capacity_joules_per_kelvin=50.0),),
        edges=(Edge(a="cpu_die", b="ambient", still_watts_per_kelvin=2.0),),
        ambient_celsius=20.0,
        fans=(),
    )
    model = ThermalModel(machine)
    for _ in range(2_500):
        advance(model, np.array([40.0]), np.zeros(0), 0.01)
    expected = 20.0 + 40.0 / 2.0 * (1 - math.exp(-25.0 / 25.0))
    assert model.celsius[0] == pytest.approx(expected, abs=0.01)


def test_a_reference_sensor_pulls_its_node_and_then_the_room() -> None:
    model = ThermalModel(SCENARIO.machine)
    for _ in range(12_000):
        pull(model.celsius, model.places["case"], 40.0, 0.1)
        advance(model, np.zeros(len(SCENARIO.machine.nodes)), np.full(3, 1_000.0), 0.1)
    assert model.celsius[model.places["case"]] == pytest.approx(40.0, abs=0.5)
    assert model.celsius[model.places["cpu_die"]] == pytest.approx(40.0, abs=0.5)
    assert model.celsius[-1] == pytest.approx(40.0, abs=3.0)


def test_the_model_begins_where_the_machine_is() -> None:
    """A node that nobody measures begins between its neighbours, as heat flowing through it has it."""
    model = ThermalModel(SCENARIO.machine)
    _, ends, edges, max_rpm = model.constants
    measured = np.zeros(len(model.places), dtype=np.int64)
    for node, celsius in (("cpu_die", 80.0), ("gpu_die", 50.0), ("case", 30.0)):
        model.celsius[model.places[node]], measured[model.places[node]] = celsius, 1
    conduct(model.celsius, ends, edges, max_rpm, np.zeros(3), model.conductance)
    settle(model.celsius, measured, ends, model.conductance)
    # 4.5 W/K to the die, 0.65 W/K to the case at standstill.
    expected = (4.5 * 80.0 + 0.65 * 30.0) / (4.5 + 0.65)
    assert model.celsius[model.places["cpu_sink"]] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loads", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.6, 0.3)])
def test_a_warm_start_is_not_suspicious(loads) -> None:
    base = quick(shipped_scenario("idle"))
    phase = Phase(cpu_load=loads[0], gpu_load=loads[1], duration_ms=1_000)
    scenario = replace(base, duration_ms=900_000, workload=replace(base.workload, phases=(phase,)))
    before = run(scenario)
    warm, command = before.true_celsius[-1], before.cycles[-1].applied.values
    machine = replace(
        scenario.machine,
        nodes=tuple(replace(node, initial_celsius=warm[node.name]) for node in scenario.machine.nodes),
        fans=tuple(replace(fan, initial_pwm=command[f"{fan.name}_pwm"]) for fan in scenario.machine.fans),
    )
    again = run(replace(scenario, duration_ms=60_000, machine=machine))
    assert not {cycle.view.suspicion for cycle in again.cycles if cycle.view.suspicion}


def test_a_room_that_changed_while_a_sensor_was_away_is_believed_in_the_end() -> None:
    base = quick(shipped_scenario("idle"))
    scenario = replace(
        base,
        duration_ms=600_000,
        machine=replace(base.machine, ambient_steps=(AmbientStep(at_ms=20_000, celsius=32.0),)),
        faults=(Fault(target="case", state="off", at_ms=10_000, duration_ms=120_000),),
    )
    kept = run(scenario)
    assert not kept.cycles[-1].verdict.failsafe
    held = sum(bool(cycle.verdict.failsafe) for cycle in kept.cycles) - 1_200
    print(f"full cooling for {held / 10} s after the sensor came back")


def test_known_offsets_are_taken_off() -> None:
    base = quick(shipped_scenario("gaming"))
    sensors = tuple(
        replace(sensor, offset_millicelsius=offset)
        for sensor, offset in zip(base.machine.sensors, (10_000, -8_000, 8_000), strict=True)
    )
    kept = run(replace(base, machine=replace(base.machine, sensors=sensors)))
    assert not {cycle.verdict.failsafe for cycle in kept.cycles if cycle.verdict.failsafe}
    assert abs((kept.cycles[-1].view.temps_millicelsius[0] or 0) - kept.true_celsius[-1]["cpu_die"] * 1_000) < 3_000


def test_a_slow_sampling_sensor_is_not_punished_for_it() -> None:
    base = quick(shipped_scenario("steps"))
    cpu, *others = base.machine.sensors
    kept = run(replace(base, machine=replace(base.machine, sensors=(replace(cpu, hold_ms=5_000), *others))))
    assert not {cycle.verdict.failsafe for cycle in kept.cycles if cycle.verdict.failsafe}


def test_what_cannot_be_checked_is_said() -> None:
    base = quick(shipped_scenario("steps"), duration_ms=5_000)
    kept = run(replace(base, faults=(Fault(target="cpu_energy_microjoules", state="off"),)))
    assert {cycle.view.unchecked for cycle in kept.cycles[2:]} == {"cpu"}


# --- signals ----------------------------------------------------------------------------------------------------------


def ordinary(**changes: int | None) -> dict[str, int | None]:
    return {
        "cpu_temp_millicelsius": 24_000,
        "gpu_temp_millicelsius": 24_000,
        "case_temp_millicelsius": 24_000,
        "cpu_fan_rpm": 690,
        "gpu_fan_rpm": 941,
        "case_fan_rpm": 439,
        "cpu_energy_microjoules": 0,
        "gpu_power_microwatts": 0,
        "cpu_busy_ticks": 0,
        "cpu_total_ticks": 0,
        **changes,
    }


def test_power_and_load_come_from_counters_and_the_first_cycle_has_none() -> None:
    signals = Signals(SCENARIO, WIRING.sensors)
    first = signals.see(
        0, 0, Wake(0), readings(ordinary(cpu_energy_microjoules=7, cpu_busy_ticks=5, cpu_total_ticks=9), 0)
    )
    assert first.cpu_power_microwatts is None
    assert first.cpu_load_ppm is None
    second = signals.see(
        1, CYCLE, Wake(0),
        readings(ordinary(cpu_energy_microjoules=5_000_007, cpu_busy_ticks=25, cpu_total_ticks=89), CYCLE),
    )  # fmt: skip
    assert second.cpu_power_microwatts == 50_000_000
    assert second.cpu_load_ppm == 250_000


@given(st.integers(0, 262_143_328_850), st.integers(0, 20_000_000))
@example(262_143_328_850, 1)
@example(262_143_328_000, 1_000)
def test_the_energy_counter_may_wrap(start, spent) -> None:
    wrap = SCENARIO.machine.cpu.energy_wrap_microjoules
    signals = Signals(SCENARIO, WIRING.sensors)
    signals.see(0, 0, Wake(0), readings(ordinary(cpu_energy_microjoules=start), 0))
    later = (start + spent) % (wrap + 1)
    seen = signals.see(1, CYCLE, Wake(0), readings(ordinary(cpu_energy_microjoules=later), CYCLE))
    assert seen.cpu_power_microwatts == spent * 10


def test_a_counter_that_was_reset_gives_no_power() -> None:
    signals = Signals(SCENARIO, WIRING.sensors)
    signals.see(0, 0, Wake(0), readings(ordinary(cpu_energy_microjoules=10**9), 0))
    assert (
        signals.see(1, CYCLE, Wake(0), readings(ordinary(cpu_energy_microjoules=5), CYCLE)).cpu_power_microwatts is None
    )


def test_a_counter_that_may_have_gone_round_twice_gives_no_power() -> None:
    wrap = SCENARIO.machine.cpu.energy_wrap_microjoules
    # At twice PL2 the counter goes round in 923 s.
    for gap_s, known in ((900, True), (950, False)):
        signals = Signals(SCENARIO, WIRING.sensors)
        signals.see(0, 0, Wake(0), readings(ordinary(cpu_energy_microjoules=wrap - 5), 0))
        at = gap_s * 1_000_000_000
        seen = signals.see(1, at, Wake(0), readings(ordinary(cpu_energy_microjoules=5), at))
        assert (seen.cpu_power_microwatts is not None) is known


def test_after_a_suspend_history_is_forgotten() -> None:
    signals = Signals(SCENARIO, WIRING.sensors)
    signals.see(0, 0, Wake(0), readings(ordinary(), 0))
    warm = {f"{name}_temp_millicelsius": 60_000 for name in ("cpu", "gpu", "case")}
    seen = signals.see(1, CYCLE, Wake(0, 10**12), readings(ordinary(**warm), CYCLE))
    # 36 K more than before: believed, because nobody knows what happened meanwhile, and cooled fully for the hold.
    assert seen.temps_millicelsius == (60_000, 60_000, 60_000)
    assert seen.failsafe == "the machine was suspended for 1000000 ms"
    assert seen.cpu_power_microwatts is None


@pytest.mark.parametrize("wake", [Wake(CYCLE + 1), Wake(0, 20_000_000)])
def test_coming_late_or_out_of_a_suspend_cools_fully_for_the_hold(wake) -> None:
    signals = Signals(SCENARIO, WIRING.sensors)
    assert not signals.see(0, 0, Wake(0), readings(ordinary(), 0)).failsafe
    held = 0
    for cycle in range(1, 60):
        at = cycle * 2 * CYCLE
        seen = signals.see(cycle, at, wake if cycle == 1 else Wake(0), readings(ordinary(), at + 0))
        held += bool(seen.failsafe)
    assert held == SCENARIO.control.hold_cycles + 1


def test_a_fan_that_does_not_turn_is_in_trouble_after_its_grace() -> None:
    signals = Signals(SCENARIO, WIRING.sensors)
    signals.commanded({"cpu_fan_pwm": 255})
    seen = [
        signals.see(cycle, cycle * CYCLE, Wake(0), readings(ordinary(cpu_fan_rpm=0), cycle * CYCLE)).fan_trouble
        for cycle in range(60)
    ]
    assert not seen[20]
    assert "cpu_fan turns at 0 rpm" in seen[-1]


def test_what_is_missing_is_none_and_not_zero() -> None:
    signals = Signals(SCENARIO, WIRING.sensors)
    seen = signals.see(0, 0, Wake(0), readings({}, 0))
    assert seen.temps_millicelsius == seen.worst_millicelsius == (None, None, None)
    assert seen.failsafe == "cpu: not there; gpu: not there; case: not there"
    for name in ("cpu_load_ppm", "cpu_power_microwatts", "gpu_load_ppm", "memory_used_ppm", "words_offered_per_second"):
        assert getattr(seen, name) is None


# --- PID and rules ----------------------------------------------------------------------------------------------------


def one(*settings: int) -> Callable[[int, int], int]:
    """A single loop as a function."""
    loops = Loops([Pid(*settings)])
    return lambda error, dt_ns: loops.step([error], dt_ns)[0]


@given(st.lists(st.integers(-100_000, 100_000), min_size=1, max_size=50), st.integers(1, 10**12))
def test_pid_stays_in_its_range(errors, dt) -> None:
    pid = one(9_000, 600, 2_000, 60, 255)
    for error in errors:
        assert 60 <= pid(error, dt) <= 255


def test_pid_does_not_wind_up() -> None:
    pid = one(1_000, 1_000, 0, 0, 255)
    for _ in range(10_000):
        assert pid(50_000, CYCLE) <= 255
    # A windup of 10,000 cycles would take thousands to unwind; without one the output leaves saturation within seconds.
    outputs = [pid(-20_000, CYCLE) for _ in range(200)]
    assert outputs[-1] < 100


def test_the_integral_stands_still_while_the_output_is_saturated() -> None:
    pid = one(100_000, 1_000, 0, 0, 255)
    for _ in range(1_000):
        assert pid(10_000, CYCLE) == 255
    assert pid(0, CYCLE) < 20


def test_a_steady_error_is_integrated_away() -> None:
    pid = one(1_000, 500, 0, 0, 255)
    # 0.5 steps per kelvin and second: two kelvins for 50 s, beside 2 steps from the proportional part.
    outputs = [pid(2_000, 10 * CYCLE) for _ in range(50)]
    # Integers: the last cycle's integral is 50 s times 1 step a second.
    assert outputs[-1] in (51, 52)


def test_a_loop_without_an_error_waits_at_its_highest() -> None:
    settings = (9_000, 600, 2_000, 60, 255)
    both, steady, waiting = Loops([Pid(*settings)] * 2), one(*settings), one(*settings)
    for error in (5_000, 7_000, 3_000):
        assert both.step([error, error], CYCLE) == [steady(error, CYCLE), waiting(error, CYCLE)]
    assert both.step([4_000, NOTHING], CYCLE) == [steady(4_000, CYCLE), 255]
    assert both.step([1_000, 2_500], CYCLE) == [steady(1_000, CYCLE), waiting(2_500, CYCLE)]


def test_fans_follow_the_sensors_they_cool() -> None:
    rules = RulesPid(SCENARIO, LIMITS)
    command = rules.decide(view((85_000, 40_000, 30_000))).command
    assert command["cpu_fan_pwm"] > command["gpu_fan_pwm"]
    assert command["case_fan_pwm"] >= command["cpu_fan_pwm"]


@pytest.mark.parametrize(
    ("seen", "action", "source"),
    [
        (view((50_000, 50_000, 30_000)), "noop", "pid"),
        (view((88_000, 50_000, 30_000)), "throttle", "rules"),
        (view((83_000, 50_000, 30_000)), "reduce_power", "pid"),
        (view((50_000, 50_000, 30_000), failsafe="cpu: not there"), "conservative", "failsafe"),
        (view((50_000, 50_000, 30_000), fan_trouble="cpu_fan turns at 0 rpm"), "conservative", "rules"),
        (view((None, 50_000, 30_000)), "conservative", "failsafe"),
    ],
)
def test_the_rules_say_what_and_why(seen, action, source) -> None:
    decision = RulesPid(SCENARIO, LIMITS).decide(seen)
    assert (decision.action, decision.source) == (action, source)
    assert decision.reason


def test_a_boost_brings_the_clock_back() -> None:
    rules = RulesPid(SCENARIO, LIMITS)
    for _ in range(5):
        rules.decide(view((88_000, 50_000, 30_000)))
    cool = view((50_000, 50_000, 30_000), cpu_load_ppm=900_000)
    for _ in range(100):
        decision = rules.decide(cool)
        if decision.action == "boost":
            break
    assert decision.action == "boost"
    assert decision.command["cpu_max_kilohertz"] == LIMITS["cpu_max_kilohertz"].maximum


@pytest.mark.parametrize("name", ["no.such.module:make", "json:no_such_factory", "json:dumps"])
def test_a_controller_that_cannot_be_had_is_refused(name) -> None:
    scenario = parse(f"control.controller = '{name}'", "x.toml")
    with pytest.raises((ControllerError, TypeError)):
        make_controller(scenario, LIMITS)
