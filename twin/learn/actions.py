"""What the learner may propose: bounded changes around the baseline's command, and how far they are gone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from hardware.interface import Limit
from twin.scenario import ACTIONS, Scenario

FANS_MORE = 96
"""PWM steps that `conservative` adds, twice what `boost` adds to pay for its heat."""
MORE = {"conservative": FANS_MORE, "boost": FANS_MORE // 2}
CLOCK_STEPS = 2
"""Clock steps that `throttle` takes off."""
CAPS_CUT = 4
"""`reduce_power` takes a quarter of a cap's range above its safe value, `conservative` two."""


class Proposals:
    """Makes a command of an action, the baseline's command and an authority, all in integers."""

    def __init__(self, scenario: Scenario, limits: Mapping[str, Limit]) -> None:
        self._fans = tuple(f"{fan.name}_pwm" for fan in scenario.machine.fans)
        self._caps = tuple(limit for name, limit in limits.items() if name not in self._fans)
        self._limits = dict(limits)
        self._clocks = scenario.machine.cpu.frequencies_kilohertz

    def command(self, action: str, baseline: Mapping[str, int], authority_percent: int) -> dict[str, int]:
        """The baseline's command, moved `authority_percent` (0..100) of the way to what `action` means.

        `noop` is the baseline. `throttle` lowers the clock by two steps; `reduce_power` lowers every cap but the clock
        by a quarter of its range above the safe value; `conservative` does both by half of the range, and adds cooling;
        `boost` opens all caps and adds half as much cooling. No cap is brought below its safe value, and none is raised
        by anything but `boost`.
        """
        command = dict(baseline)
        if action == "noop" or authority_percent == 0:
            return command
        for limit in self._caps:
            asked = baseline[limit.name]
            command[limit.name] = asked + _share(self._cap(action, limit, asked) - asked, authority_percent)
        more = MORE.get(action, 0)
        if more == 0:
            return command
        for name in self._fans:
            asked = baseline[name]
            target = max(asked, min(asked + more, self._limits[name].maximum))
            command[name] = asked + _share(target - asked, authority_percent)
        return command

    def _cap(self, action: str, limit: Limit, asked: int) -> int:
        if action == "boost":
            return limit.maximum
        floor = min(asked, limit.safe)
        if action == "throttle":
            return max(floor, self._slower(asked)) if limit.name == "cpu_max_kilohertz" else asked
        if action == "reduce_power" and limit.name == "cpu_max_kilohertz":
            return asked
        parts = 2 if action == "conservative" else 1
        return max(floor, asked - parts * (limit.maximum - limit.safe) // CAPS_CUT)

    def _slower(self, kilohertz: int) -> int:
        below = bisect_left(self._clocks, kilohertz)
        return self._clocks[max(below - CLOCK_STEPS, 0)] if below else kilohertz

    def nearest(self, values: Mapping[str, int], baseline: Mapping[str, int], authority_percent: int) -> int:
        """The place among `ACTIONS` of the action whose command comes nearest to `values`, which were executed.

        Nearness is the sum over channels of the difference in thousandths of the channel's range; of equals the first.
        """
        best, least = 0, -1
        for place, action in enumerate(ACTIONS):
            command = self.command(action, baseline, authority_percent)
            apart = 0
            for name, limit in self._limits.items():
                span = max(limit.maximum - limit.minimum, 1)
                apart += abs(command[name] - values.get(name, limit.safe)) * 1_000 // span
            if least < 0 or apart < least:
                best, least = place, apart
        return best


def _share(change: int, percent: int) -> int:
    """`percent` of `change`, rounded towards 0."""
    return change * percent // 100 if change >= 0 else -(-change * percent // 100)
