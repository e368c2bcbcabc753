"""The last word on every command: a pure function over integers.

For each cycle the shield predicts the worst temperature that can be reached before its next chance to act, and
projects the command into the set that is safe there: fans at least at a floor that rises with heat, caps at most at a
ceiling that falls with heat, everything inside its limits. Input that is missing, late, stale or not finite means full
cooling and safe caps (or lower ones, where they were asked). Hotter never cools less, other inputs equal: floors and
ceilings are monotone in the headroom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hardware.interface import Limit
from twin.control.signals import fastest_rise_millicelsius_per_second
from twin.control.view import View
from twin.scenario import Scenario

FANS_START_MILLICELSIUS = 20_000
FANS_FULL_MILLICELSIUS = 8_000
CAPS_START_MILLICELSIUS = 8_000
CAPS_SAFE_MILLICELSIUS = 3_000
"""Headroom at which the floors and ceilings begin, and at which they are complete."""


def fan_floor(headroom_millicelsius: int, least: int, full: int) -> int:
    """The least fan command at this headroom: `least` from 20 K on, rising in a straight line to `full` at 8 K."""
    if headroom_millicelsius >= FANS_START_MILLICELSIUS:
        return least
    if headroom_millicelsius <= FANS_FULL_MILLICELSIUS:
        return full
    span = FANS_START_MILLICELSIUS - FANS_FULL_MILLICELSIUS
    # Rounded up: a floor may be too high, never too low.
    return least + ((full - least) * (FANS_START_MILLICELSIUS - headroom_millicelsius) + span - 1) // span


def cap_ceiling(headroom_millicelsius: int, safe: int, maximum: int) -> int:
    """The largest cap at this headroom: `maximum` from 8 K on, falling in a straight line to `safe` at 3 K."""
    if headroom_millicelsius >= CAPS_START_MILLICELSIUS:
        return maximum
    if headroom_millicelsius <= CAPS_SAFE_MILLICELSIUS:
        return safe
    span = CAPS_START_MILLICELSIUS - CAPS_SAFE_MILLICELSIUS
    # Rounded down: never too high.
    return safe + (maximum - safe) * (headroom_millicelsius - CAPS_SAFE_MILLICELSIUS) // span


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be applied. `changed` names each changed channel with what was asked and given; `failsafe` says why."""

    values: Mapping[str, int]
    changed: tuple[str, ...]
    failsafe: str


class Shield:
    """Knows the limits, which outputs are fans, and which sensors each cap answers to."""

    def __init__(self, scenario: Scenario, limits: Mapping[str, Limit]) -> None:
        machine = scenario.machine
        self._limits = dict(limits)
        self._fans = {f"{fan.name}_pwm" for fan in machine.fans}
        # A fan never runs below the speed at which it would stall, nor below the floor of the scenario.
        self._least = {f"{fan.name}_pwm": max(fan.start_pwm, scenario.control.fan_floor_pwm) for fan in machine.fans}
        # The next command acts one period from now, and the cycle after that may be the first to see its effect.
        ahead_ms = 2 * scenario.control.period_ms
        self._rises = [
            fastest_rise_millicelsius_per_second(scenario, sensor.node) * ahead_ms // 1_000 + 1
            for sensor in machine.sensors
        ]
        nodes = [sensor.node for sensor in machine.sensors]
        gpu = machine.gpu.node if machine.gpu.enabled else ""
        cpu_sensors = tuple(i for i, node in enumerate(nodes) if node != gpu or node == machine.cpu.node)
        gpu_sensors = tuple(i for i, node in enumerate(nodes) if node != machine.cpu.node or node == gpu)
        self._answers_to = {name: gpu_sensors if name.startswith("gpu_") else cpu_sensors for name in self._limits}

    def predicted_headroom(self, view: View, sensors: tuple[int, ...] | None = None) -> int | None:
        """The smallest headroom that may be left before the next chance to act; None if a temperature is not known."""
        smallest: int | None = None
        for i in range(len(view.worst_millicelsius)) if sensors is None else sensors:
            worst = view.worst_millicelsius[i]
            if worst is None:
                return None
            room = view.limits_millicelsius[i] - worst - self._rises[i]
            if smallest is None or room < smallest:
                smallest = room
        return smallest

    def _cooled(self, name: str, limit: Limit, asked: object) -> int:
        """Full cooling: a fan at its most, a cap at its safe value, or lower where that is what was asked."""
        if name in self._fans or type(asked) is not int:
            return limit.safe
        return min(limit.safe, max(limit.minimum, asked))

    def project(self, view: View, command: Mapping[str, object]) -> Verdict:
        """The safe command nearest to `command`; channels that it does not name get their safe value."""
        failsafe = view.failsafe
        # Asked before any comparison: min and max let a NaN through.
        strange = [name for name in self._limits if name in command and type(command[name]) is not int]
        strange += [name for name in command if name not in self._limits]
        if strange and not failsafe:
            failsafe = "; ".join(f"the controller asked {short(name)} = {short(command[name])}" for name in strange)
        room = self.predicted_headroom(view)
        if room is None and not failsafe:
            failsafe = "a temperature is not known"
        if failsafe or room is None:
            values = {name: self._cooled(name, limit, command.get(name)) for name, limit in self._limits.items()}
            asked = {name: value for name, value in command.items() if name in values}
            return Verdict(MappingProxyType(values), _changes(asked, values), failsafe)
        values = {}
        for name, limit in self._limits.items():
            asked_value = command.get(name)
            value = asked_value if type(asked_value) is int else limit.safe
            if name in self._fans:
                low, high = fan_floor(room, max(limit.minimum, self._least[name]), limit.maximum), limit.maximum
            else:
                near = self.predicted_headroom(view, self._answers_to[name])
                low = limit.minimum
                high = cap_ceiling(room if near is None else near, limit.safe, limit.maximum)
            values[name] = min(high, max(low, value))
        return Verdict(MappingProxyType(values), _changes(command, values), "")


def _changes(asked: Mapping[str, object], given: Mapping[str, int]) -> tuple[str, ...]:
    # What is asked may be anything, even something that cannot be compared: only ints are.
    return tuple(
        f"{name} {short(asked[name]) if name in asked else 'nothing'} -> {value}"
        for name, value in given.items()
        if type(asked.get(name)) is not int or asked[name] != value
    )


def short(value: object) -> str:
    """A value in a few words that are the same on every machine: numbers and text as they are, other things by type."""
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        return f"an int of {value.bit_length()} bits"
    return repr(value)[:80] if type(value) in (int, float, bool, str, type(None)) else type(value).__name__
