"""Fans: curve, lag, start, stall; and what the firmware gets back."""

from __future__ import annotations

import math

import pytest
from world_cases import Run, scenario

from hardware.interface import UnknownChannelError
from twin.scenario import Machine

FAN = Machine().fans[0]


def _rpm(run: Run) -> int:
    rpm = run.values()["cpu_fan_rpm"]
    assert rpm is not None
    return rpm


def test_a_fan_begins_at_its_initial_speed_and_stays_there() -> None:
    run = Run(scenario())
    assert _rpm(run) == round(FAN.initial_pwm / 255 * FAN.max_rpm)
    assert _rpm(run.until(10)) == round(FAN.initial_pwm / 255 * FAN.max_rpm)


@pytest.mark.parametrize("pwm", [30, 50, 128, 255])
def test_speed_is_proportional_to_pwm(pwm: int) -> None:
    run = Run(scenario()).command(cpu_fan_pwm=pwm).until(20)
    assert _rpm(run) == round(pwm / 255 * FAN.max_rpm)


def test_speed_lags_by_the_time_constant() -> None:
    run = Run(scenario()).command(cpu_fan_pwm=255)
    start = FAN.initial_pwm / 255 * FAN.max_rpm
    for second in (0.5, 1.0, 2.0):
        run.after_events(second)
        expected = FAN.max_rpm + (start - FAN.max_rpm) * math.exp(-second * 1000 / FAN.lag_ms)
        assert _rpm(run) == pytest.approx(expected, abs=0.51)


def test_a_fan_stalls_below_and_needs_more_to_start() -> None:
    run = Run(scenario()).command(cpu_fan_pwm=FAN.stall_pwm - 1).until(20)
    assert _rpm(run) == 0
    run.command(cpu_fan_pwm=FAN.start_pwm - 1).until(40)
    assert _rpm(run) == 0
    run.command(cpu_fan_pwm=FAN.start_pwm).until(60)
    assert _rpm(run) == round(FAN.start_pwm / 255 * FAN.max_rpm)
    run.command(cpu_fan_pwm=FAN.stall_pwm).until(80)
    assert _rpm(run) == round(FAN.stall_pwm / 255 * FAN.max_rpm)


def test_release_gives_the_initial_values_back() -> None:
    run = Run(scenario())
    names = [limit.name for limit in run.wiring.outputs]
    before = {name: run.world.commanded(name) for name in names}
    assert before == {
        "cpu_fan_pwm": 80, "gpu_fan_pwm": 80, "case_fan_pwm": 80, "cpu_max_kilohertz": 5_000_000,
        "cpu_power_limit_microwatts": 105_000_000, "gpu_power_limit_microwatts": 220_000_000,
    }  # fmt: skip
    run.command(**{limit.name: limit.safe for limit in run.wiring.outputs}).until(1)
    run.world.release()
    assert {name: run.world.commanded(name) for name in names} == before


def test_unknown_outputs_are_named() -> None:
    run = Run(scenario())
    with pytest.raises(UnknownChannelError, match="pump_pwm"):
        run.world.actuate("pump_pwm", 1)
    with pytest.raises(UnknownChannelError, match="cpu_fan_pwm"):
        run.world.commanded("pump_pwm")
