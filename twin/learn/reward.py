"""What a cycle was worth, from what was measured: computed by code that does not learn.

Each bonus needs two witnesses that do not depend on each other, and what is missing counts as the worst it could be.
So no single fault of a sensor is worth more than the truth, where the witnesses agree on the truth.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from twin.control.view import View
from twin.scenario import Machine, Scenario

MICRO = 1_000_000
COOL_MILLICELSIUS = 15_000
"""With more headroom than this a cycle earns `COOL`."""
HOT_MILLICELSIUS = 5_000
"""With less headroom than this a cycle costs `HOT`."""
COOL, HOT = 300_000, 200_000
SMOOTH_MILLIHERTZ = 60_000
SMOOTH = 200_000
"""For more frames a second than that."""
THRIFTY = 100_000
"""For every processor below its sustained power."""
ANOMALY = 300_000
"""For what is not believed, suspected, in trouble, cooled for safety, or had to be changed by the shield."""

Reward = Callable[[View, bool], int]
"""From the view that followed an action, and whether the shield changed the action's command, to millionths
-1,000,000..1,000,000."""


class RewardError(ValueError):
    """The reward that a scenario names cannot be had."""


def make_reward(scenario: Scenario) -> Reward:
    """The reward that the scenario names: `standard`, or `module:function`, called as `function(view, held_back)`.

    Its answer is cut to -1,000,000..1,000,000; what is no int counts as -1,000,000. Raises `RewardError`.
    """
    name = scenario.learn.reward
    if name == "standard":
        return StandardReward(scenario.machine)
    module_name, colon, function_name = name.partition(":")
    try:
        if not colon:
            raise ValueError("is neither")
        function = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:
        raise RewardError(
            f"learn.reward = {name!r}: {type(error).__name__}: {error}; allowed are standard, or a function of your "
            "own as module:function"
        ) from error
    if not callable(function):
        raise RewardError(f"learn.reward = {name!r}: is a {type(function).__name__}; name a function(view, held_back)")

    def bounded(view: View, held_back: bool) -> int:
        value = function(view, held_back)
        return min(MICRO, max(-MICRO, value)) if type(value) is int else -MICRO

    return bounded


class StandardReward:
    """+0.3 for headroom above 15 K, -0.2 below 5 K, +0.2 for more than 60 frames a second, +0.1 for power below the
    sustained limit, -0.3 for an anomaly; cut to -1..1, in millionths.
    """

    def __init__(self, machine: Machine) -> None:
        cpu, gpu = machine.cpu, machine.gpu
        self._cpu_limit = round(cpu.pl1_watts * MICRO)
        self._cpu_idle = round(cpu.idle_watts * MICRO)
        self._clocks = cpu.frequencies_kilohertz
        # Nanofarads, millivolts squared and kilohertz make 1e-12 W.
        self._switching = tuple(
            round(cpu.cores * cpu.capacitance_nanofarad * millivolt * millivolt * kilohertz / MICRO)
            for kilohertz, millivolt in zip(cpu.frequencies_kilohertz, cpu.voltages_millivolt, strict=True)
        )
        self._gpu_enabled = gpu.enabled
        self._gpu_limit = round(gpu.power_limit_watts * MICRO)
        self._gpu_idle = round(gpu.idle_watts * MICRO)

    def __call__(self, view: View, held_back: bool) -> int:
        """The worth of a cycle that led to `view`."""
        worth = self._headroom(view) + self._frames(view) + self._power(view)
        if held_back or view.failsafe or view.suspicion or view.fan_trouble or None in view.worst_millicelsius:
            worth -= ANOMALY
        return min(MICRO, max(-MICRO, worth))

    def _headroom(self, view: View) -> int:
        """The hottest of what is read counts, but the model's word where the reading agrees with it."""
        least: int | None = None
        for temp, expected, worst, limit in zip(
            view.temps_millicelsius,
            view.expected_millicelsius,
            view.worst_millicelsius,
            view.limits_millicelsius,
            strict=True,
        ):
            if worst is None or temp is None:
                return -HOT
            hot = worst if expected is None or view.suspicion else expected
            least = limit - hot if least is None else min(least, limit - hot)
        if least is None or least < HOT_MILLICELSIUS:
            return -HOT
        return COOL if least > COOL_MILLICELSIUS else 0

    def _frames(self, view: View) -> int:
        """Frames are many when the application says so and their count does."""
        told, counted = view.frame_rate_millihertz, view.frames_counted_millihertz
        if told is None or counted is None:
            return 0
        return SMOOTH if min(told, counted) > SMOOTH_MILLIHERTZ else 0

    def _power(self, view: View) -> int:
        """Power is low when it is measured to be, and when load and clock say so, for every processor that is there."""
        measured, clock, load = view.cpu_power_microwatts, view.cpu_clock_kilohertz, view.cpu_load_ppm
        if measured is None or clock is None or load is None:
            return 0
        if max(measured, self._cpu_at(clock, load)) >= self._cpu_limit:
            return 0
        if self._gpu_enabled:
            measured, load = view.gpu_power_microwatts, view.gpu_load_ppm
            if measured is None or load is None:
                return 0
            if max(measured, self._gpu_idle + (self._gpu_limit - self._gpu_idle) * load // MICRO) >= self._gpu_limit:
                return 0
        return THRIFTY

    def _cpu_at(self, kilohertz: int, load_ppm: int) -> int:
        """What switching at this clock and load takes, with the idle power: the larger part of P = C * V^2 * f * u."""
        level = 0
        while level < len(self._switching) - 1 and self._clocks[level] < kilohertz:
            level += 1
        return self._cpu_idle + self._switching[level] * min(max(load_ppm, 0), MICRO) // MICRO
