"""The baseline: rules choose the action, PID loops the fans and the power limits."""

from __future__ import annotations

from collections.abc import Mapping

from hardware.interface import Limit
from twin.control.pid import Loops, Pid
from twin.control.view import NOTHING, Decision, View
from twin.scenario import Machine, Scenario

THROTTLE_MILLICELSIUS = 9_000
REDUCE_MILLICELSIUS = 14_000
BOOST_MILLICELSIUS = 20_000
RECOVER_MILLICELSIUS = 16_000
BUSY_PPM = 700_000
RECOVER_CYCLES = 10
"""Headrooms at which the rules act, the load that deserves a boost, and how slowly caps come back."""


class RulesPid:
    """Fans follow the headroom of the sensors they cool; caps go down by rule and come back with room."""

    def __init__(self, scenario: Scenario, limits: Mapping[str, Limit]) -> None:
        machine, control = scenario.machine, scenario.control
        self._fans = [f"{fan.name}_pwm" for fan in machine.fans]
        everywhere = tuple(range(len(machine.sensors)))
        cooled = [_sensors_cooled_by(machine, fan.name) for fan in machine.fans]
        # None stands for all sensors, whose headroom is known already.
        self._cooled = [None if sensors == everywhere else sensors for sensors in cooled]
        self._target = round(control.target_headroom_celsius * 1_000)
        fan = Pid(
            control.fan_proportional_milli,
            control.fan_integral_milli,
            control.fan_derivative_milli,
            control.fan_floor_pwm,
            255,
        )
        self._power_limits = tuple(limit for name, limit in limits.items() if name.endswith("_microwatts"))
        self._caps = tuple((each.name, each.maximum, each.maximum - each.safe) for each in self._power_limits)
        # The power loops cut in thousandths of the range between the safe limit and the largest.
        power = Pid(120_000, 30_000, 0, 0, 1_000)
        self._loops = Loops([fan] * len(self._fans) + [power] * len(self._power_limits))
        self._clock = limits["cpu_max_kilohertz"]
        self._gpu_clock = limits.get("gpu_max_kilohertz")
        self._steps = machine.cpu.frequencies_kilohertz
        self._lowest_step = self._steps.index(max(k for k in self._steps if k <= self._clock.safe))
        self._step = len(self._steps) - 1
        self._quiet_cycles = 0

    def decide(self, view: View) -> Decision:
        """Fans from their loops; then the first rule that applies, in the order in which they stand here."""
        room = view.headroom_millicelsius()
        errors = []
        for cooled in self._cooled:
            near = room if cooled is None else view.headroom_millicelsius(cooled)
            errors.append(NOTHING if near is None else self._target - near)
        errors += [NOTHING if room is None else REDUCE_MILLICELSIUS - room] * len(self._power_limits)
        outputs = self._loops.step(errors, view.dt_ns)
        command = dict(zip(self._fans, outputs, strict=False))
        reduced = False
        for (name, most, span), cut in zip(self._caps, outputs[len(self._fans) :], strict=True):
            less = span * cut // 1_000
            command[name] = most - less
            reduced = reduced or less > 0
        action, source, reason = self._choose(view, room, reduced)
        if action == "conservative":
            self._step = self._lowest_step
            command |= {limit.name: limit.safe for limit in self._power_limits}
        elif action == "throttle":
            self._step = max(self._lowest_step, self._step - 1)
        elif action == "boost":
            self._step = len(self._steps) - 1
        elif room is not None and room > RECOVER_MILLICELSIUS and self._step < len(self._steps) - 1:
            self._quiet_cycles += 1
            if self._quiet_cycles >= RECOVER_CYCLES:
                self._quiet_cycles = 0
                self._step += 1
        command["cpu_max_kilohertz"] = self._steps[self._step]
        if self._gpu_clock is not None:
            # The power limit does the work; the clock is what is left when that is not enough.
            held = action in ("conservative", "throttle")
            command["gpu_max_kilohertz"] = self._gpu_clock.safe if held else self._gpu_clock.maximum
        return Decision(action, source, reason, command)

    def _choose(self, view: View, room: int | None, reduced: bool) -> tuple[str, str, str]:
        if view.failsafe or room is None:
            return "conservative", "failsafe", view.failsafe or "a temperature is not known"
        if view.fan_trouble:
            return "conservative", "rules", view.fan_trouble
        if room < THROTTLE_MILLICELSIUS:
            return "throttle", "rules", f"headroom is below {THROTTLE_MILLICELSIUS // 1_000} K"
        if reduced:
            return "reduce_power", "pid", f"headroom is near {REDUCE_MILLICELSIUS // 1_000} K"
        busy = view.cpu_load_ppm is not None and view.cpu_load_ppm > BUSY_PPM
        if busy and room > BOOST_MILLICELSIUS and self._step < len(self._steps) - 1:
            return "boost", "rules", "busy, with room to spare"
        return "noop", "pid", "within the target"


class Steady:
    """Asks for the same middle command always; something to measure other controllers against."""

    def __init__(self, scenario: Scenario, limits: Mapping[str, Limit]) -> None:
        self._command = {
            name: limit.maximum if name not in {f"{fan.name}_pwm" for fan in scenario.machine.fans} else 128
            for name, limit in limits.items()
        }

    def decide(self, view: View) -> Decision:
        """The same, whatever is seen."""
        return Decision("noop", "rules", "always the same", self._command)


def _sensors_cooled_by(machine: Machine, fan: str) -> tuple[int, ...]:
    """The sensors whose heat leaves through this fan's edges: those cut off from ambient without them (else all)."""
    reached = {"ambient"}
    edges = [edge for edge in machine.edges if edge.fan != fan]
    while grown := {n for e in edges for n in (e.a, e.b) if e.a in reached or e.b in reached} - reached:
        reached |= grown
    cooled = tuple(i for i, sensor in enumerate(machine.sensors) if sensor.node not in reached)
    return cooled or tuple(range(len(machine.sensors)))
