"""Outputs that a machine has where its scenario names them: cooling devices, an NVIDIA card's clock and its fans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hardware_fakes import FakeClock, add_zone
from hypothesis import given
from hypothesis import strategies as st
from running import quick, run, shipped_scenario
from test_guardian_nvml import Card
from world_cases import FULL_FANS, Run, scenario

from hardware.interface import Command, Source, to_channel, to_raw
from hardware.linux import nvml
from hardware.linux.adapter import LinuxHardware
from hardware.linux.hands import DirectHands
from twin.scenario import Fan, Machine
from twin.wiring import wiring

PLAIN = Machine()
NAMED = replace(
    PLAIN,
    gpu=replace(PLAIN.gpu, limit_clock=True),
    fans=(
        replace(PLAIN.fans[0], hwmon_chips=(), cooling_devices=("Fan",), cooling_states=3),
        replace(PLAIN.fans[1], hwmon_chips=(), nvml=True),
        PLAIN.fans[2],
    ),
)


def test_they_come_after_the_others_and_move_none() -> None:
    plain, named = wiring(PLAIN), wiring(NAMED)
    assert named.sensors == tuple(
        replace(mine, sources=other.sources) for mine, other in zip(plain.sensors, named.sensors, strict=True)
    )
    assert [limit.name for limit in named.outputs] == [*(limit.name for limit in plain.outputs), "gpu_max_kilohertz"]


def test_a_fan_is_a_cooling_device_of_the_kernel(tmp_path: Path) -> None:
    device = add_zone(tmp_path, "thermal", "cooling_device3", {"type": "Fan", "cur_state": 1, "max_state": 3})
    clock = FakeClock()
    hardware = LinuxHardware(tmp_path, wiring(NAMED), clock, DirectHands(clock))
    state = device / "cur_state"
    assert hardware.found["cpu_fan_pwm"].endswith("cooling_device3/cur_state")
    for pwm, expected in ((0, 0), (84, 0), (85, 1), (170, 2), (254, 2), (255, 3)):
        assert hardware.apply(Command({"cpu_fan_pwm": pwm})).values == {"cpu_fan_pwm": expected * 85}
        assert int(state.read_text()) == expected
    hardware.close()
    assert int(state.read_text()) == 1
    # A device with other states would be cooled too little, or too much.
    (device / "max_state").write_text("10\n")
    wrong = LinuxHardware(tmp_path, wiring(NAMED), clock).missing["cpu_fan_pwm"]
    assert "cooling_device3 has states from 0 to 10, and the scenario says 3" in wrong


@given(states=st.integers(1, 255), pwm=st.integers(0, 255))
def test_states_cool_at_most_what_is_asked_and_full_is_full(states: int, pwm: int) -> None:
    fan = Fan(name="a", cooling_devices=("Fan",), cooling_states=states)
    source = wiring(replace(PLAIN, fans=(fan,), edges=PLAIN.edges[:1])).outputs[0].sources[1]
    assert to_raw(source, 0) == 0
    assert to_raw(source, 255) == states
    assert 0 <= pwm - to_channel(source, to_raw(source, pwm)) <= 255 // states + 1


def test_an_nvidia_card_takes_its_clock_and_its_fans() -> None:
    card = Card()
    gpu = nvml.Gpu(card)
    gpu.refresh()
    limits = {limit.name: limit for limit in wiring(NAMED).outputs}
    sources: list[Source] = [limits[name].sources[-1] for name in ("gpu_max_kilohertz", "gpu_fan_pwm")]
    for source, value in zip(sources, (1_500_000, 128), strict=True):
        output = nvml.find_output(gpu, source.attribute)
        assert not isinstance(output, str)
        for cell, raw in output.plan(to_raw(source, value)):
            assert cell.write(raw).value is not None
    assert (card.locked, card.fans) == ((0, 1_500), [50, 50])


@pytest.mark.parametrize("most", [1_700_000, 1_500_000, 300_000])
def test_the_simulated_card_keeps_its_clock(most: int) -> None:
    run = Run(scenario(NAMED, gpu_load=1.0)).command(**FULL_FANS, gpu_max_kilohertz=most).until(2)
    assert run.values()["gpu_clock_kilohertz"] == max(c for c in NAMED.gpu.frequencies_kilohertz if c <= most)


@pytest.mark.parametrize(("limit_celsius", "held"), [(90.0, False), (30.0, True)])
def test_the_baseline_holds_the_clock_back_where_it_is_too_hot(limit_celsius: float, held: bool) -> None:
    sensors = (PLAIN.sensors[0], replace(PLAIN.sensors[1], limit_celsius=limit_celsius), PLAIN.sensors[2])
    machine = replace(NAMED, sensors=sensors)
    cycles = run(replace(quick(shipped_scenario("idle")), machine=machine, duration_ms=3_000)).cycles
    asked = {cycle.decision.action: cycle.decision.command["gpu_max_kilohertz"] for cycle in cycles}
    expected = {"conservative": 600_000, "throttle": 600_000}
    assert asked == {action: expected.get(action, 2_400_000) for action in asked}
    assert bool(asked.keys() & expected.keys()) == held
