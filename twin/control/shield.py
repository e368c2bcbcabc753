"""The last word on every command: a pure function over integers.

For each cycle the shield predicts the worst temperature that can be reached before its next chance to act, and
projects the command into the set that is safe there: fans at least at a floor that rises with heat, caps at most at a
ceiling that falls with heat, everything inside its limits. Input that is missing, late, stale or not finite means full
cooling and safe caps (or lower ones, where they were asked). Hotter never cools less, other inputs equal: floors and
ceilings are monotone in the headroom.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from hardware.interface import Limit
from twin.control.signals import fastest_rise_millicelsius_per_second
from twin.control.view import View
from twin.control.words import changes, short
from twin.kernels import Integers, kernel
from twin.scenario import Scenario

FANS_START_MILLICELSIUS = 20_000
FANS_FULL_MILLICELSIUS = 8_000
CAPS_START_MILLICELSIUS = 8_000
CAPS_SAFE_MILLICELSIUS = 3_000
"""Headroom at which the floors and ceilings begin, and at which they are complete."""

# Columns of the outputs array, one row an output.
FAN = 0
LEAST = 1
SAFE = 2
MOST = 3


@kernel
def fan_floor(headroom_millicelsius: int, least: int, full: int) -> int:
    """The least fan command at this headroom: `least` from 20 K on, rising in a straight line to `full` at 8 K."""
    span = FANS_START_MILLICELSIUS - FANS_FULL_MILLICELSIUS
    left = min(span, max(0, headroom_millicelsius - FANS_FULL_MILLICELSIUS))
    # Rounded up: a floor may be too high, never too low.
    return full - (full - least) * left // span


@kernel
def cap_ceiling(headroom_millicelsius: int, safe: int, maximum: int) -> int:
    """The largest cap at this headroom: `maximum` from 8 K on, falling in a straight line to `safe` at 3 K."""
    span = CAPS_START_MILLICELSIUS - CAPS_SAFE_MILLICELSIUS
    left = min(span, max(0, headroom_millicelsius - CAPS_SAFE_MILLICELSIUS))
    # Rounded down: never too high.
    return safe + (maximum - safe) * left // span


@kernel
def projected(fan: int, headroom_millicelsius: int, asked: int, least: int, safe: int, most: int) -> int:
    """What is safe at this headroom and nearest to `asked`: for a fan (1) from its floor up, for a cap to its ceiling.

    `least <= safe <= most`; a fan's safe value is `most`.
    """
    low = fan_floor(headroom_millicelsius, least, most) if fan == 1 else least
    high = most if fan == 1 else cap_ceiling(headroom_millicelsius, safe, most)
    return min(high, max(low, asked))


@kernel
def cooled(fan: int, asked: int, least: int, safe: int) -> int:
    """Full cooling: a fan at its most, a cap at its safe value, or lower where that is what was asked."""
    return safe if fan == 1 else min(safe, max(least, asked))


@kernel
def project_all(outputs: Integers, answers: Integers, hottest: Integers, given: Integers) -> None:
    """`projected` for every output, at the least headroom of the sensors that it answers to.

    What is asked of each output stands in `given` and is replaced; the worst of each sensor (millicelsius) stands
    behind. `answers` has a row an output and a column a sensor: 1 where the output answers to the sensor; each answers
    to one at least. A sensor's headroom is `hottest` less its worst.
    """
    for output in range(len(outputs)):
        headroom = FANS_START_MILLICELSIUS
        for sensor in range(len(hottest)):
            if answers[output, sensor] == 1:
                headroom = min(headroom, hottest[sensor] - given[len(outputs) + sensor])
        row = outputs[output]
        given[output] = projected(row[FAN], headroom, given[output], row[LEAST], row[SAFE], row[MOST])


@kernel
def cool_all(outputs: Integers, given: Integers) -> None:
    """`cooled` for every output. What is asked of it stands in `given` and is replaced."""
    for output in range(len(outputs)):
        row = outputs[output]
        given[output] = cooled(row[FAN], given[output], row[LEAST], row[SAFE])


class Verdict(NamedTuple):
    """What may be applied. `changed` names each changed channel with what was asked and given; `failsafe` says why."""

    values: Mapping[str, int]
    changed: tuple[str, ...]
    failsafe: str


class Shield:
    """Knows the limits, which outputs are fans, and which sensors each cap answers to."""

    def __init__(self, scenario: Scenario, limits: Mapping[str, Limit]) -> None:
        machine = scenario.machine
        self._limits = dict(limits)
        self._safe = {name: limit.safe for name, limit in limits.items()}
        # A fan never runs below the speed at which it would stall, nor below the floor of the scenario.
        fans = {f"{fan.name}_pwm": max(fan.start_pwm, scenario.control.fan_floor_pwm) for fan in machine.fans}
        self._outputs = np.array(
            [
                (int(name in fans), max(limit.minimum, fans.get(name, limit.minimum)), limit.safe, limit.maximum)
                for name, limit in limits.items()
            ],
            dtype=np.int64,
        )
        self._answers = np.array([_answers(scenario, "" if name in fans else name) for name in limits], dtype=np.int64)
        # The next command acts one period from now, and the cycle after that may be the first to see its effect.
        ahead_ms = 2 * scenario.control.period_ms
        self._hottest = np.array(
            [
                round(sensor.limit_celsius * 1_000)
                - (fastest_rise_millicelsius_per_second(scenario, sensor.node) * ahead_ms // 1_000 + 1)
                for sensor in machine.sensors
            ],
            dtype=np.int64,
        )
        self._given = np.zeros(len(limits) + len(machine.sensors), dtype=np.int64)

    def project(self, view: View, command: Mapping[str, object]) -> Verdict:
        """The safe command nearest to `command`; channels that it does not name get their safe value."""
        # Our own outputs first, in their order, and then what is none.
        asked = {**self._safe, **command}
        # Asked before any comparison: min and max let a NaN through.
        strange = [name for name, value in asked.items() if type(value) is not int or name not in self._safe]
        failsafe = view.failsafe
        if strange and not failsafe:
            failsafe = "; ".join(f"the controller asked {short(name)} = {short(command[name])}" for name in strange)
        worst = [value for value in view.worst_millicelsius if value is not None]
        if not failsafe and len(worst) < len(self._hottest):
            failsafe = "a temperature is not known"
        taken = self._taken(asked)
        if failsafe:
            self._given[: len(taken)] = taken
            cool_all(self._outputs, self._given)
        else:
            self._given[:] = taken + worst
            project_all(self._outputs, self._answers, self._hottest, self._given)
        values = dict(zip(self._safe, self._given.tolist(), strict=False))
        changed = () if not strange and command == values else changes(command, values)
        return Verdict(MappingProxyType(values), changed, failsafe)

    def _taken(self, asked: Mapping[str, object]) -> list[int]:
        """What is asked of our outputs, cut to their limits; their safe value where that is no int."""
        taken = []
        for name, limit in self._limits.items():
            value = asked[name]
            if type(value) is not int:
                value = limit.safe
            elif not limit.minimum <= value <= limit.maximum:
                # Nothing outside the limits is safe, and what is inside them fits the array.
                value = min(limit.maximum, max(limit.minimum, value))
            taken.append(value)
        return taken


def _answers(scenario: Scenario, cap: str) -> list[int]:
    """1 for each sensor to which a cap answers, else 0: all but those on the other processor.

    A fan ("") answers to all, and so does a cap for which no sensor would be left.
    """
    machine = scenario.machine
    gpu = machine.gpu.node if machine.gpu.enabled else ""
    own, other = (gpu, machine.cpu.node) if cap.startswith("gpu_") else (machine.cpu.node, gpu)
    answers = [int(not cap or sensor.node == own or sensor.node != other) for sensor in machine.sensors]
    return answers if any(answers) else [1] * len(answers)
