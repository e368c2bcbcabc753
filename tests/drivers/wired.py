"""The twin behind real drivers: a scenario whose sensors and fans are chips, and a world that is their hardware."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from drivers.chips import Adt7475, Amc6821, Lm75, Register, Writes
from drivers.machine import Machine

from hardware.interface import Applied, Channel, Command, Limit, Readings, Status
from twin.loader import load
from twin.scenario import Scenario
from twin.wiring import wiring
from twin.world.world import World

AMC6821, ADT7475, LM75, TMP75 = Amc6821(0x18), Adt7475(0x2E), Lm75(0x48), Lm75(0x49, "tmp75", 12)
CHIPS = (AMC6821, ADT7475, LM75)
"""What is plugged into the bus of the machine under test."""

TEMPERATURES = {"cpu": ADT7475, "gpu": AMC6821, "case": LM75}
FANS: dict[str, tuple[Adt7475 | Amc6821, int]] = {
    "cpu_fan": (ADT7475, 1),
    "gpu_fan": (AMC6821, 1),
    "case_fan": (ADT7475, 2),
}


def scenario(start_celsius: Mapping[str, float] | None = None) -> Scenario:
    """`gaming` on a machine whose chips are these and whose nodes are so warm at first."""
    shipped = load("gaming")
    machine = shipped.machine
    sensors = [
        replace(sensor, hwmon_chips=(TEMPERATURES[sensor.name].name,), hwmon_labels=(), thermal_zones=())
        for sensor in machine.sensors
    ]
    fans = [replace(fan, hwmon_chips=(FANS[fan.name][0].name,), index=FANS[fan.name][1]) for fan in machine.fans]
    nodes = [replace(node, initial_celsius=(start_celsius or {}).get(node.name)) for node in machine.nodes]
    on_chips = replace(machine, name="chips", sensors=tuple(sensors), fans=tuple(fans), nodes=tuple(nodes))
    return replace(shipped, name="gaming-on-chips", machine=on_chips)


def outputs() -> dict[str, tuple[Register, Register]]:
    """Output -> the registers of its duty cycle and of its mode."""
    return {f"{fan}_pwm": (chip.duty(index), chip.mode(index)) for fan, (chip, index) in FANS.items()}


def shown_by_chips(values: Mapping[str, int | None]) -> Writes:
    """The registers that show the channels of `values` that chips show."""
    writes: list[tuple[Register, int]] = []
    for name, chip in TEMPERATURES.items():
        value = values.get(f"{name}_temp_millicelsius")
        writes += [] if value is None else chip.temperature(value)
    for name, (chip, index) in FANS.items():
        value = values.get(f"{name}_rpm")
        writes += [] if value is None else chip.speed(value, index)
    return writes


def plug_in(machine: Machine, chips: tuple[Any, ...] = CHIPS, first: Writes = ()) -> None:
    """Chips come up as after power-on and show what is in `first`, and their drivers bind, in this order."""
    machine.call("show", [*(write for chip in chips for write in chip.power_on()), *first])
    for chip in chips:
        machine.call("plug", chip.name, chip.address)


def unplug_all(machine: Machine) -> None:
    """The bus is empty again."""
    for address in machine.call("plugged"):
        machine.call("unplug", address)


def powered_on(machine: Machine, first: Writes = ()) -> None:
    """All chips come up anew, on a machine where nobody has acted before."""
    machine.call("forget_sessions")
    unplug_all(machine)
    plug_in(machine, first=first)


class WiredHardware:
    """The Linux backend in the machine; its sensors are what the world writes to chips, and its PWM moves the fans.

    It answers as `LockstepHardware` does, only that between the world and the backend there are drivers instead of
    files. A fan that is in automatic mode has the speed that the firmware gave it at first.
    """

    def __init__(self, machine: Machine, world: World, scenario: Scenario, elapsed_ns: Callable[[], int]) -> None:
        self._machine = machine
        self._world = world
        self._elapsed_ns = elapsed_ns
        self._wiring = wiring(scenario.machine)
        self._firmware = {f"{fan.name}_pwm": fan.initial_pwm for fan in scenario.machine.fans}
        self._registers = [register for pair in outputs().values() for register in pair]
        self._limits = MappingProxyType({limit.name: limit for limit in self._wiring.outputs})
        self._closed = False
        self.unrestored: tuple[tuple[str, str], ...] = ()
        self.held: dict[str, int] = {}
        """After `close`: the duty cycles of before, as the registers had them."""
        # The chips have shown this world since they were powered on: drivers keep what they read for two seconds.
        powered_on(machine, shown_by_chips(self._told(world.sense()[0])))
        self.found, self.missing = machine.call("start", self._wiring, "guarded")

    @property
    def sensors(self) -> tuple[Channel, ...]:
        return self._wiring.sensors

    @property
    def limits(self) -> Mapping[str, Limit]:
        return self._limits

    def read(self) -> Readings:
        values, statuses = self._world.sense()
        writes = shown_by_chips(self._told(values))
        readings: Readings = self._machine.call("cycle", self._elapsed_ns(), writes, values, statuses)
        return readings

    def _told(self, values: tuple[int | None, ...]) -> dict[str, int | None]:
        return dict(zip((channel.name for channel in self.sensors), values, strict=True))

    def apply(self, command: Command) -> Applied:
        applied: Applied
        applied, held = self._machine.call("apply", dict(command.values), self._registers)
        self._drive(held)
        return applied

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.held = dict(zip(outputs(), self._machine.call("look", self._registers[::2]), strict=True))
            self.unrestored = self._machine.call("close")
            self._drive(self._machine.call("look", self._registers))

    def _drive(self, held: list[int]) -> None:
        """The fans run as the registers say."""
        pairs = zip(held[::2], held[1::2], strict=True)
        for (name, firmware), (duty, mode), (chip, _index) in zip(
            self._firmware.items(), pairs, FANS.values(), strict=True
        ):
            self._world.actuate(name, duty if chip.manual(mode) else firmware)


def readings_of(channels: tuple[Channel, ...], readings: Readings) -> dict[str, tuple[int | None, Status]]:
    """Channel -> its value and status."""
    answers = zip(readings.values, readings.statuses, strict=True)
    return dict(zip((channel.name for channel in channels), answers, strict=True))
