"""Real drivers of a real kernel under the Linux backend: what it finds, reads, writes and gives back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from drivers.chips import Lm75, Register
from drivers.machine import Machine
from drivers.wired import (
    ADT7475,
    AMC6821,
    CHIPS,
    FANS,
    LM75,
    TEMPERATURES,
    TMP75,
    outputs,
    plug_in,
    readings_of,
    scenario,
    shown_by_chips,
    unplug_all,
)  # fmt: skip

from hardware.interface import Applied, Status, Wiring
from twin.wiring import wiring

MACHINE = scenario().machine
WIRING = wiring(MACHINE)
PWM = tuple(outputs())
REGISTERS = [register for pair in outputs().values() for register in pair]


def with_case_on(chip: Lm75) -> Wiring:
    sensors = [replace(sensor, hwmon_chips=(chip.name,)) if sensor.name == "case" else sensor
               for sensor in MACHINE.sensors]  # fmt: skip
    return wiring(replace(MACHINE, sensors=tuple(sensors)))


def read(machine: Machine, channels: Wiring = WIRING) -> dict[str, tuple[int | None, Status]]:
    return readings_of(channels.sensors, machine.call("read"))


def apply(machine: Machine, values: dict[str, int]) -> tuple[Applied, dict[str, tuple[int, int]]]:
    """The answer, and output -> (duty, mode) in the registers."""
    applied, held = machine.call("apply", values, REGISTERS)
    return applied, dict(zip(PWM, zip(held[::2], held[1::2], strict=True), strict=True))


def given_back(machine: Machine, before: dict[str, tuple[int, int]]) -> set[str]:
    """Outputs in the mode of before, which was automatic: there the duty cycle is the chip's."""
    _, now = apply(machine, {})
    return {name for name in PWM if now[name][1] == before[name][1]}


def attribute(machine: Machine, address: int, name: str) -> str:
    return f"/sys/class/hwmon/{machine.call('plugged')[address][1]}/{name}"


def without_numbers(found: dict[str, str]) -> dict[str, str]:
    return {name: re.sub(r"hwmon\d+", "hwmonN", place) for name, place in found.items() if "hwmon" in place}


def test_the_order_in_which_drivers_bind_changes_nothing(machine: Machine) -> None:
    found, _ = machine.call("start", WIRING, "no")
    unplug_all(machine)
    plug_in(machine, (*CHIPS[1:], CHIPS[0]))
    again, _ = machine.call("start", WIRING, "no")
    assert {place for name, place in found.items() if "hwmon" in place}.isdisjoint(again.values())
    assert without_numbers(again) == without_numbers(found)
    assert set(without_numbers(found)) >= {"cpu_temp_millicelsius", "gpu_fan_rpm", "case_fan_pwm"}


def test_two_chips_of_one_name_are_told_apart_or_refused(machine: Machine) -> None:
    second = Lm75(0x4A)
    plug_in(machine, (second,))
    with pytest.raises(RuntimeError, match=r"AmbiguousDeviceError: case_temp.*write lm75@0-0048.*write lm75@0-004a"):
        machine.call("start", WIRING, "no")
    machine.call("show", second.temperature(30_500) + LM75.temperature(44_000))
    for chip, expected in ((LM75, 44_000), (second, 30_500)):
        named = with_case_on(replace(chip, name=f"lm75@0-{chip.address:04x}"))
        machine.call("start", named, "no")
        assert read(machine, named)["case_temp_millicelsius"] == (expected, Status.OK)


@pytest.mark.parametrize("celsius", [-55.0, -7.3, -0.25, 0.0, 0.3, 21.07, 63.99, 99.6, 127.0, 300.0])
def test_a_temperature_comes_through_within_the_quantum_of_the_chip(machine: Machine, celsius: float) -> None:
    asked = round(celsius * 1_000)
    # Drivers that keep what they read look at their registers again when they are bound anew.
    unplug_all(machine)
    plug_in(machine, (*CHIPS, TMP75))
    machine.call("show", [write for chip in (*CHIPS, TMP75) for write in chip.temperature(asked)])
    machine.call("start", WIRING, "no")
    told = {chip: read(machine)[f"{name}_temp_millicelsius"] for name, chip in TEMPERATURES.items()}
    machine.call("start", with_case_on(TMP75), "no")
    told[TMP75] = read(machine)["case_temp_millicelsius"]
    for chip, (value, status) in told.items():
        assert status is Status.OK
        assert value is not None
        # 127.75 degrees are the most that any of them can show.
        assert value <= min(asked, 127_938)
        assert value > min(asked, 127_000) - chip.quantum_millicelsius


@pytest.mark.parametrize("rpm", [0, 92, 700, 1_499, 2_200, 12_000])
def test_a_speed_comes_through_within_a_count_of_the_tachometer(machine: Machine, rpm: int) -> None:
    unplug_all(machine)
    plug_in(machine)
    machine.call("show", shown_by_chips({f"{fan}_rpm": rpm for fan in FANS}))
    machine.call("start", WIRING, "no")
    for fan in FANS:
        value, status = read(machine)[f"{fan}_rpm"]
        assert status is Status.OK
        assert value is not None
        # A count takes 1 / 5,400,000 or 1 / 6,000,000 of a minute.
        assert rpm <= value <= rpm + (rpm * rpm // 5_000_000) + 1


def test_a_reading_that_its_chip_calls_faulty_has_no_value(machine: Machine) -> None:
    unplug_all(machine)
    # Remote 1 is open (status 2, bit 6), and the fan stands (status 1, bit 1).
    plug_in(machine, first=[(Register(ADT7475.address, 0x42), 0x40), (Register(AMC6821.address, 0x02), 0x02)])
    machine.call("start", WIRING, "no")
    told = read(machine)
    assert told["cpu_temp_millicelsius"] == told["gpu_fan_rpm"] == (None, Status.UNREADABLE)
    assert told["gpu_temp_millicelsius"] == (25_000, Status.OK)


def test_what_was_written_is_in_the_register_at_once_and_read_back_late(machine: Machine) -> None:
    enable = attribute(machine, AMC6821.address, "pwm1_enable")
    assert machine.call("read_file", enable) == b"2\n"
    assert machine.call("write_file", enable, "1") == ""
    assert AMC6821.manual(machine.call("look", [AMC6821.mode()])[0])
    assert machine.call("read_file", enable) == b"2\n"
    machine.call("pause", 2.0)
    assert machine.call("read_file", enable) == b"1\n"


def test_a_session_that_begins_right_after_another_gives_back_what_was_there(machine: Machine) -> None:
    mode = attribute(machine, AMC6821.address, "pwm1_enable")
    for _session in range(2):
        machine.call("start", WIRING, "guarded")
        apply(machine, {"gpu_fan_pwm": 99})
        machine.call("pause", 1.1)
        assert machine.call("read_file", mode) == b"1\n"
        machine.call("close")
    assert not AMC6821.manual(machine.call("look", [AMC6821.mode()])[0])


def test_a_command_is_in_the_registers_and_close_takes_it_out(machine: Machine) -> None:
    machine.call("start", WIRING, "directly")
    _, before = apply(machine, {})
    asked = {"cpu_fan_pwm": 201, "gpu_fan_pwm": 133, "case_fan_pwm": 1}
    applied, held = apply(machine, asked)
    assert (applied.values, applied.clamped, applied.failed) == (asked, (), ())
    for name, (chip, _index) in zip(PWM, FANS.values(), strict=True):
        assert not chip.manual(before[name][1])
        assert held[name][0] == asked[name]
        assert chip.manual(held[name][1])
    assert machine.call("close") == ()
    assert given_back(machine, before) == set(PWM)


def test_a_command_outside_the_range_never_reaches_a_driver(machine: Machine) -> None:
    machine.call("start", WIRING, "directly")
    applied, held = apply(machine, {"cpu_fan_pwm": -1, "gpu_fan_pwm": 10**15, "case_fan_pwm": 256})
    assert applied.values == {"cpu_fan_pwm": 0, "gpu_fan_pwm": 255, "case_fan_pwm": 255}
    assert set(applied.clamped) == set(PWM)
    assert [held[name][0] for name in PWM] == [0, 255, 255]
    machine.call("close")


@pytest.mark.parametrize(("text", "duty"), [("-1", 0), ("256", 255), ("100000", 255)])
def test_the_drivers_themselves_clamp_so_that_a_sign_error_would_stop_a_fan(
    machine: Machine, text: str, duty: int
) -> None:
    for chip in (AMC6821, ADT7475):
        assert machine.call("write_file", attribute(machine, chip.address, "pwm1_enable"), "1") == ""
        assert machine.call("write_file", attribute(machine, chip.address, "pwm1"), text) == ""
        assert machine.call("look", [chip.duty()]) == [duty]


def test_modes_are_not_the_same_for_every_driver(machine: Machine) -> None:
    enable = {chip: attribute(machine, chip.address, "pwm1_enable") for chip in (AMC6821, ADT7475)}
    assert machine.call("write_file", enable[AMC6821], "0") == "EINVAL"
    assert machine.call("write_file", enable[ADT7475], "0") == ""
    assert machine.call("write_file", enable[AMC6821], "3") == ""
    assert machine.call("write_file", enable[ADT7475], "3") == "EINVAL"


def test_an_adt7475_in_automatic_mode_takes_a_number_and_does_nothing(machine: Machine) -> None:
    before = machine.call("look", [ADT7475.duty()])
    assert machine.call("write_file", attribute(machine, ADT7475.address, "pwm1"), "222") == ""
    assert machine.call("look", [ADT7475.duty()]) == before


@pytest.mark.parametrize(
    ("goes", "comes"),
    [(("unplug", LM75.address), ("plug", "lm75", LM75.address)),
     (("unbind", "lm75", LM75.address), ("bind", "lm75", LM75.address))],
    ids=["chip", "driver"],
)  # fmt: skip
def test_a_sensor_that_goes_is_absent_never_cold_and_is_found_again(
    machine: Machine, goes: tuple[object, ...], comes: tuple[object, ...]
) -> None:
    machine.call("show", LM75.temperature(48_500))
    machine.call("start", WIRING, "directly")
    assert read(machine)["case_temp_millicelsius"] == (48_500, Status.OK)
    held = attribute(machine, LM75.address, "temp1_input")
    machine.call("hold", held)
    assert machine.call("read_held", held) == b"48500\n"
    machine.call(*goes)
    assert machine.call("read_held", held) == "ENODEV"
    for _ in range(12):
        assert read(machine)["case_temp_millicelsius"] == (None, Status.ABSENT)
    # Under another number, since the held file keeps the old one, or under the same one: it is bound by its name.
    machine.call("show", LM75.temperature(51_000))
    machine.call(*comes)
    told = [read(machine)["case_temp_millicelsius"] for _ in range(12)]
    assert told[-1] == (51_000, Status.OK)
    assert set(told) <= {(None, Status.ABSENT), (51_000, Status.OK)}
    machine.call("close")


def test_a_fan_whose_chip_goes_fails_and_the_others_are_given_back(machine: Machine) -> None:
    machine.call("start", WIRING, "directly")
    _, before = apply(machine, {})
    apply(machine, dict.fromkeys(PWM, 180))
    machine.call("unplug", AMC6821.address)
    applied, held = apply(machine, dict.fromkeys(PWM, 190))
    assert applied.values == {"cpu_fan_pwm": 190, "case_fan_pwm": 190}
    assert [name for name, _why in applied.failed] == ["gpu_fan_pwm"]
    assert [name for name, _why in machine.call("close")] == ["gpu_fan_pwm"]
    assert given_back(machine, before) == set(applied.values)
    _, after = apply(machine, {})
    # Nobody could reach it any more: it runs on as it was told last.
    assert after["gpu_fan_pwm"] == held["gpu_fan_pwm"] == (180, held["gpu_fan_pwm"][1])
