"""What a cycle was worth, from what was measured: computed by code that does not learn.

Each bonus needs two witnesses that do not depend on each other, and what is missing counts as the worst it could be.
So no single fault of a sensor is worth more than the truth, where the witnesses agree on the truth.
"""

from __future__ import annotations

import importlib
import logging
from bisect import bisect_left
from collections.abc import Callable
from operator import gt

from twin.control.expectation import MOST_SHARE
from twin.control.view import View
from twin.scenario import Cpu, Gpu, Machine, Scenario

log = logging.getLogger("twin")

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
"""For what is not believed, suspected, in trouble, cooled for safety, or had to be changed by the shield; and for a fan
whose speed is not known."""

Reward = Callable[[View, bool], int]
"""From the view that followed an action, and whether the shield changed the action's command, to millionths
-1,000,000..1,000,000."""


class RewardError(ValueError):
    """The reward that a scenario names cannot be had."""


def make_reward(scenario: Scenario) -> Reward:
    """The reward that the scenario names: `standard`, or `module:function`, called as `function(view, held_back)`.

    Its answer is cut to -1,000,000..1,000,000. What it raises, what is no int, and an int that does not fit 64 bits
    count as -1,000,000. Raises `RewardError`.
    """
    name = scenario.learn.reward
    if name == "standard":
        return StandardReward(scenario.machine)
    module_name, colon, function_name = name.partition(":")
    try:
        if not colon:
            raise ValueError("there is no reward of that name")
        function = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:
        raise RewardError(
            f"learn.reward = {name!r}: {type(error).__name__}: {error}; allowed are standard, or a function of your "
            "own as module:function, in a module that imports"
        ) from error
    if not callable(function):
        raise RewardError(f"learn.reward = {name!r}: is a {type(function).__name__}; name a function(view, held_back)")
    return Bounded(function)


class Bounded:
    """A reward of one's own, held to what a reward may be. The first time that it fails is logged."""

    def __init__(self, function: Callable[[View, bool], object]) -> None:
        self._function = function
        self._complained = False

    def __call__(self, view: View, held_back: bool) -> int:
        """The function's answer, or the least there is."""
        try:
            value = self._function(view, held_back)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._complain(f"raised {type(error).__name__}", error)
            return -MICRO
        if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
            self._complain(f"answered with a {type(value).__name__} that is no int of 64 bits", None)
            return -MICRO
        return min(MICRO, max(-MICRO, value))

    def _complain(self, what: str, error: BaseException | None) -> None:
        if not self._complained:
            self._complained = True
            log.error("the reward function %s; that counts as -1, and so will what follows", what, exc_info=error)


class StandardReward:
    """+0.3 for headroom above 15 K, -0.2 below 5 K, +0.2 for more than 60 frames a second, +0.1 for power below the
    sustained limit, -0.3 for an anomaly; cut to -1..1, in millionths.

    | term | one witness | the other |
    |---|---|---|
    | headroom | every reading, where it is believed | the thermal model, alone, as warm as the other sensors say the |
    | | | room is, and guided by them |
    | frames | the rate that the application tells | its count of frames |
    | power | what is measured | what clock and load take |
    """

    def __init__(self, machine: Machine) -> None:
        cpu, gpu = machine.cpu, machine.gpu
        self._cpu = _Switching(cpu, cpu.cores)
        self._cpu_limit = round(cpu.pl1_watts * MICRO)
        self._most_rpm = tuple(MOST_SHARE * fan.max_rpm for fan in machine.fans)
        self._gpu = _Switching(gpu, 1) if gpu.enabled else None
        self._gpu_limit = round(gpu.power_limit_watts * MICRO)

    def __call__(self, view: View, held_back: bool) -> int:
        """The worth of a cycle that led to `view`."""
        worth = self._headroom(view) + self._frames(view) + self._power(view)
        if (
            held_back
            or view.failsafe
            or view.suspicion
            or view.fan_trouble
            or None in view.worst_millicelsius
            or self._fans_unknown(view)
        ):
            worth -= ANOMALY
        return min(MICRO, max(-MICRO, worth))

    def _headroom(self, view: View) -> int:
        """The hottest witness counts, and the sensor with the least room."""
        temps, unaided = view.temps_millicelsius, view.unaided_millicelsius
        warmer = [
            temp - model for temp, model in zip(temps, unaided, strict=True) if temp is not None and model is not None
        ]
        if len(warmer) < len(temps):
            return -HOT
        # The unaided model does not know how warm the room is. So much warmer is what all others say; none is left out
        # but the sensor itself.
        least, second = sorted(warmer)[:2] if len(warmer) > 1 else (0, 0)
        earned = COOL
        for temp, model, worst, limit in zip(
            temps, unaided, view.worst_millicelsius, view.limits_millicelsius, strict=True
        ):
            if temp is None or model is None or worst is None:
                return -HOT
            others = second if temp - model == least else least
            room = limit - max(temp, model, model + others, worst)
            if room < HOT_MILLICELSIUS:
                return -HOT
            if room <= COOL_MILLICELSIUS:
                earned = 0
        return earned

    def _fans_unknown(self, view: View) -> bool:
        """Whether the speed of a fan is not known, or one that no fan has."""
        speeds = [-1 if rpm is None else rpm for rpm in view.fan_rpm]
        # Built-in functions over whole lists: this is asked in every cycle.
        return min(speeds, default=0) < 0 or any(map(gt, speeds, self._most_rpm))

    def _frames(self, view: View) -> int:
        told, counted = view.frame_rate_millihertz, view.frames_counted_millihertz
        if told is None or counted is None:
            return 0
        return SMOOTH if min(told, counted) > SMOOTH_MILLIHERTZ else 0

    def _power(self, view: View) -> int:
        """For every processor that is there, or not at all."""
        cpu = _larger(view.cpu_power_microwatts, self._cpu.at(view.cpu_clock_kilohertz, view.cpu_load_ppm))
        if cpu is None or cpu >= self._cpu_limit:
            return 0
        if self._gpu is not None:
            gpu = _larger(view.gpu_power_microwatts, self._gpu.at(view.gpu_clock_kilohertz, view.gpu_load_ppm))
            if gpu is None or gpu >= self._gpu_limit:
                return 0
        return THRIFTY


class _Switching:
    """What a processor's switching takes at a clock and load, with its idle power: P = cores * C * V^2 * f * u + idle.

    The larger part of its power; leakage is left out, because it would need a temperature.
    """

    def __init__(self, processor: Cpu | Gpu, cores: int) -> None:
        self._idle = round(processor.idle_watts * MICRO)
        self._clocks = processor.frequencies_kilohertz
        # Nanofarads, millivolts squared and kilohertz make 1e-12 W.
        self._microwatts = tuple(
            round(cores * processor.capacitance_nanofarad * millivolt * millivolt * kilohertz / MICRO)
            for kilohertz, millivolt in zip(self._clocks, processor.voltages_millivolt, strict=True)
        )

    def at(self, kilohertz: int | None, load_ppm: int | None) -> int | None:
        """Microwatts at the lowest clock of the table that is not below `kilohertz`; None without clock or load."""
        if kilohertz is None or load_ppm is None:
            return None
        level = min(bisect_left(self._clocks, kilohertz), len(self._clocks) - 1)
        return self._idle + self._microwatts[level] * min(max(load_ppm, 0), MICRO) // MICRO


def _larger(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)
