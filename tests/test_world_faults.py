"""The eight states, on every sensor and every output; scheduled and drawn ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from world_cases import Run, scenario

from hardware.interface import Status
from twin.scenario import FAULT_STATES, Fault, Machine, RandomFaults, Scenario
from twin.wiring import fault_targets, wiring

CPU = "cpu_temp_millicelsius"
MACHINE = Machine()
WIRING = wiring(MACHINE)
SENSORS = [channel.name for channel in WIRING.sensors]
OUTPUTS = {limit.name: limit for limit in WIRING.outputs}


def _faulty(*faults: Fault, **phase: Any) -> Run:
    return Run(scenario(MACHINE, *faults, **({"cpu_load": 0.6, "gpu_load": 0.6, "frames_per_second": 30} | phase)))


def _trail(run: Run, channel: str, times: list[float]) -> list[int | None]:
    return [run.after_events(time).values()[channel] for time in times]


def _history(channel: str, times: list[float]) -> list[int | None]:
    return _trail(_faulty(), channel, times)


@pytest.mark.parametrize("state", FAULT_STATES)
@pytest.mark.parametrize("channel", SENSORS)
def test_every_sensor_takes_every_state_and_recovers(channel: str, state: str) -> None:
    fault = Fault(target=channel, state=state, at_ms=1_000, duration_ms=1_500, delay_ms=700)  # type: ignore[arg-type]
    run, healthy = _faulty(fault), _faulty()
    for tenth in range(31):
        seen, truth = run.after_events(tenth / 10), healthy.after_events(tenth / 10)
        values, statuses = seen.world.sense()
        assert all((value is None) == (status is not Status.OK) for value, status in zip(values, statuses, strict=True))
        assert seen.world.sense() == (values, statuses)
        others, theirs = seen.values(), truth.values()
        mine = others.pop(channel), theirs.pop(channel)
        assert others == theirs
        if not 10 <= tenth < 25:
            assert mine[0] == mine[1]


@pytest.mark.parametrize("state", FAULT_STATES)
@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_takes_every_state_and_recovers(name: str, state: str) -> None:
    fault = Fault(target=name, state=state, at_ms=1_000, duration_ms=1_500, delay_ms=700)  # type: ignore[arg-type]
    run = _faulty(fault)
    limit = OUTPUTS[name]
    output = run.world._faults.outputs[name]
    place = list(OUTPUTS).index(name)
    for tenth in range(31):
        run.after_events(tenth / 10)
        command = limit.minimum + (limit.maximum - limit.minimum) * (tenth % 5) // 4
        run.command(**{name: command})
        assert run.world.commanded(name) == command
        assert limit.minimum <= output.in_force() <= limit.maximum
        if not 10 <= tenth < 25:
            assert output.in_force() == command
        run.after_events(tenth / 10 + 0.02)
        assert run.world.plant.commands[place] == output.in_force()


def test_off_stuck_and_wrong_sensors() -> None:
    times = [0.5, 1.0, 2.0, 4.9, 5.0]
    truth = _history(CPU, times)
    window: dict[str, Any] = {"target": "cpu", "at_ms": 1_000, "duration_ms": 4_000}
    off = _faulty(Fault(state="off", **window))
    assert _trail(off, CPU, times) == [truth[0], None, None, None, truth[4]]
    assert _trail(_faulty(Fault(state="stuck", **window)), CPU, times) == [truth[0], *[truth[1]] * 3, truth[4]]
    wrong = [value - 15_000 for value in truth[1:4] if value is not None]
    assert _trail(_faulty(Fault(state="wrong", **window)), CPU, times) == [truth[0], *wrong, truth[4]]
    wrong = [value + 7 for value in truth[1:4] if value is not None]
    assert _trail(_faulty(Fault(state="wrong", amount=7, **window)), CPU, times) == [truth[0], *wrong, truth[4]]
    rpm = _history("cpu_fan_rpm", [2.0])[0]
    assert rpm is not None
    seen = _trail(_faulty(Fault(target="cpu_fan_rpm", state="wrong")), "cpu_fan_rpm", [2.0])
    assert seen == [rpm + rpm * -30 // 100]
    seen = _trail(_faulty(Fault(target="cpu_fan_rpm", state="wrong", amount=-(10**6))), "cpu_fan_rpm", [2.0])
    assert seen == [0]


def test_slow_and_delayed_sensors() -> None:
    times = [tenth / 10 for tenth in range(60)]
    truth = _history(CPU, times)
    slow = _trail(_faulty(Fault(target="cpu", state="slow", at_ms=1_000, delay_ms=1_500)), CPU, times)
    assert slow == [truth[i] if i < 10 else truth[10 + (i - 10) // 15 * 15] for i in range(60)]
    delayed = _trail(_faulty(Fault(target="cpu", state="delayed", at_ms=1_000, delay_ms=1_500)), CPU, times)
    assert delayed == [truth[i] if i < 10 else truth[max(0, i - 15)] for i in range(60)]


def test_intermittent_and_garbage_sensors_change_by_the_slot() -> None:
    times = [tenth / 10 for tenth in range(200)]
    truth = _history(CPU, times)
    seen = _trail(_faulty(Fault(target="cpu", state="intermittent")), CPU, times)
    assert all(value in (None, real) for value, real in zip(seen, truth, strict=True))
    assert 60 < seen.count(None) < 140
    run = _faulty(Fault(target="cpu", state="garbage"))
    garbage = []
    for time in times:
        value = run.after_events(time).values()[CPU]
        assert run.until(time + 0.09).values()[CPU] == value
        assert run.statuses()[CPU] is (Status.GARBAGE if value is None else Status.OK)
        garbage.append(value)
    assert {-128_000, 127_000, 255_000, 85_000, 0, 65_535, None} <= set(garbage)
    plain = [value for value in garbage if value not in (None, -128_000, 255_000)]
    assert all(-40_000 <= value <= 130_000 for value in plain if value is not None)
    assert 90 > garbage.count(None) > 40


def test_a_wrong_counter_wraps() -> None:
    wrap = MACHINE.cpu.energy_wrap_microjoules
    run = _faulty(Fault(target="cpu_energy_microjoules", state="wrong", amount=-(10**12) // 4)).after_events(1)
    truth = _history("cpu_energy_microjoules", [1.0])[0]
    assert truth is not None
    assert run.values()["cpu_energy_microjoules"] == (truth - 10**12 // 4) % (wrap + 1)


def test_a_fan_without_power_stops_and_a_stuck_one_goes_on() -> None:
    run = _faulty(Fault(target="cpu_fan", state="off", at_ms=1_000)).command(cpu_fan_pwm=255)
    assert run.until(20).values()["cpu_fan_rpm"] == 0
    run = _faulty(Fault(target="cpu_fan", state="stuck", at_ms=1_000)).until(2).command(cpu_fan_pwm=255).until(20)
    assert run.values()["cpu_fan_rpm"] == round(80 / 255 * 2_200)


def test_a_cap_that_is_off_is_ignored_and_a_wrong_one_is_lower() -> None:
    run = _faulty(Fault(target="cpu_max_kilohertz", state="off", at_ms=1_000), cpu_load=0.75)
    assert run.command(cpu_max_kilohertz=800_000).until(0.9).values()["cpu_clock_kilohertz"] == 800_000
    assert run.until(2).values()["cpu_clock_kilohertz"] == 5_000_000
    run = _faulty(Fault(target="cpu_max_kilohertz", state="wrong"), cpu_load=0.75).until(2)
    assert run.values()["cpu_clock_kilohertz"] == 3_000_000


def test_slow_delayed_and_intermittent_outputs() -> None:
    def commands(state: str) -> list[int]:
        fault = Fault(target="cpu_fan", state=state, at_ms=1_000, delay_ms=1_000)  # type: ignore[arg-type]
        run = _faulty(fault)
        seen = []
        for tenth in range(40):
            run.after_events(tenth / 10).command(cpu_fan_pwm=100 + tenth)
            seen.append(run.world._faults.outputs["cpu_fan_pwm"].in_force())
        return seen

    assert commands("slow") == [*range(100, 110), *[109] * 10, *[119] * 10, *[129] * 10]
    assert commands("delayed") == [*range(100, 110), *range(100, 130)]
    intermittent = commands("intermittent")
    assert intermittent == sorted(intermittent)
    assert 8 < len({*intermittent[10:]}) < 24


def test_of_several_faults_the_latest_holds_and_the_one_before_comes_back() -> None:
    run = _faulty(
        Fault(target="cpu", state="off", at_ms=1_000, duration_ms=5_000),
        Fault(target=CPU, state="wrong", at_ms=2_000, duration_ms=1_000),
        Fault(target=CPU, state="ok", at_ms=4_000, duration_ms=1_000),
    )
    times = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    truth = _history(CPU, times)
    assert truth[2] is not None
    assert _trail(run, CPU, times) == [truth[0], None, truth[2] - 15_000, None, truth[4], None, truth[6]]


def test_random_faults_come_at_their_rate_and_end() -> None:
    random = RandomFaults(per_minute=20.0, duration_ms=700, targets=("cpu", "case_fan"), states=("off",))
    run = Run(replace(scenario(), random_faults=random))
    cpu, fan = 0, 0
    for slot in range(6_000):
        run.after_events(slot / 10)
        cpu += sum(fault.began_ns == slot * 10**8 for fault in run.world._faults._sensors[CPU].faults)
        fan += sum(fault.began_ns == slot * 10**8 for fault in run.world._faults.outputs["case_fan_pwm"].faults)
        assert all(slot * 10**8 - fault.began_ns < 700 * 10**6 for fault in run.world._faults._sensors[CPU].faults)
    assert cpu == pytest.approx(200, abs=45)
    assert fan == pytest.approx(200, abs=45)
    assert cpu != fan


def test_random_faults_of_everything_at_every_slot_do_no_harm() -> None:
    run = Run(replace(scenario(frames_per_second=60), random_faults=RandomFaults(per_minute=60_000.0, duration_ms=900)))
    states = set()
    for tenth in range(60):
        values, statuses = run.after_events(tenth / 10).world.sense()
        assert all((value is None) == (status is not Status.OK) for value, status in zip(values, statuses, strict=True))
        for target in (*run.world._faults._sensors.values(), *run.world._faults.outputs.values()):
            assert target.faults
            states |= {fault.state for fault in target.faults}
    assert states == set(FAULT_STATES) - {"ok"}


def test_another_target_leaves_the_faults_of_the_first_alone() -> None:
    def begun(*targets: str) -> list[int]:
        random = RandomFaults(per_minute=30.0, duration_ms=100, targets=targets, states=("off",))
        run = Run(Scenario(random_faults=random))
        return [t for t in range(300) if run.after_events(t / 10).values()[CPU] is None]

    assert begun("cpu") == begun("gpu", "cpu", CPU) != []


def test_targets_have_short_names_unless_they_are_ambiguous() -> None:
    targets = fault_targets(WIRING, MACHINE)
    assert targets["cpu"] == CPU
    assert targets["cpu_fan"] == "cpu_fan_pwm"
    assert all(targets[name] == name for name in (*SENSORS, *OUTPUTS))
    same = replace(MACHINE, fans=(replace(MACHINE.fans[0], name="cpu"),))
    assert "cpu" not in fault_targets(wiring(same), same)
    with pytest.raises(ValueError, match=r"'pump' does not exist; this machine has: cpu_temp"):
        _faulty(Fault(target="pump", state="off"))
