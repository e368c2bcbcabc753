"""A recorded run as hardware: the readings and the outcomes of that run again, whatever is asked now.

`RecordingHardware` makes such a recording of any other backend, at the seam.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hardware.interface import Applied, Channel, Command, Hardware, Limit, Readings, clamp


@dataclass(frozen=True, slots=True)
class RecordedCycle:
    """One control cycle as it crossed the seam: what was read, what was asked and what became of it."""

    readings: Readings
    command: Mapping[str, int]
    applied: Applied


@dataclass(frozen=True, slots=True)
class Difference:
    """Cycle number `cycle` (from 0) asked for another value of `channel`; None means that it was not named."""

    cycle: int
    channel: str
    recorded: int | None
    asked: int | None


class ReplayExhausted(Exception):  # noqa: N818 - like StopIteration, an end and not a mistake
    """The recording has no further cycle. `cycles` is how many there were."""

    def __init__(self, cycles: int) -> None:
        super().__init__(f"the recording ends after {cycles} cycles")
        self.cycles = cycles


class ReplayHardware:
    """A recording that answers as the machine did.

    `sensors` and `limits` are those of the recorded run. `cycles` may be an iterator; it is read as the run goes on.
    """

    def __init__(
        self, sensors: tuple[Channel, ...], limits: Mapping[str, Limit], cycles: Iterable[RecordedCycle]
    ) -> None:
        self._sensors = sensors
        self._limits = MappingProxyType(dict(limits))
        self._cycles = iter(cycles)
        self._count = 0
        self._current: RecordedCycle | None = None
        self.first_difference: Difference | None = None
        """Where a command first differed from the recorded one; None while all are the same."""

    @property
    def sensors(self) -> tuple[Channel, ...]:
        """The recorded run's sensors."""
        return self._sensors

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The recorded run's outputs."""
        return self._limits

    def read(self) -> Readings:
        """The next recorded readings. Raises `ReplayExhausted` when there are none."""
        following = next(self._cycles, None)
        if following is None:
            raise ReplayExhausted(self._count)
        self._count += 1
        self._current = following
        return following.readings

    def apply(self, command: Command) -> Applied:
        """What became of the recorded command of this cycle, whatever `command` says.

        A command that differs is noted in `first_difference`. Unknown channels and values that are no ints raise, as
        everywhere. Before the first `read` nothing is recorded: the command is clamped and that is all.
        """
        wanted = clamp(command, self._limits)
        cycle = self._current
        if cycle is None:
            return wanted
        if self.first_difference is None:
            self.first_difference = _difference(self._count - 1, cycle.command, command.values)
        return cycle.applied

    def close(self) -> None:
        """Nothing to give back."""


class RecordingHardware:
    """Another backend, with everything that crosses the seam kept in `cycles`.

    A cycle is a read and the last command that was carried out before the next read (an empty one when there was
    none). A command before the first read is not kept.
    """

    def __init__(self, below: Hardware) -> None:
        self._below = below
        self.cycles: list[RecordedCycle] = []

    @property
    def sensors(self) -> tuple[Channel, ...]:
        """Those of the backend below."""
        return self._below.sensors

    @property
    def limits(self) -> Mapping[str, Limit]:
        """Those of the backend below."""
        return self._below.limits

    def read(self) -> Readings:
        """Read, and begin a cycle."""
        readings = self._below.read()
        self.cycles.append(RecordedCycle(readings, {}, Applied({})))
        return readings

    def apply(self, command: Command) -> Applied:
        """Carry out, and keep what became of it."""
        applied = self._below.apply(command)
        if self.cycles:
            self.cycles[-1] = RecordedCycle(self.cycles[-1].readings, dict(command.values), applied)
        return applied

    def close(self) -> None:
        """Close the backend below."""
        self._below.close()


def _difference(cycle: int, recorded: Mapping[str, int], asked: Mapping[str, int]) -> Difference | None:
    for channel in (*recorded, *(name for name in asked if name not in recorded)):
        if recorded.get(channel) != asked.get(channel):
            return Difference(cycle, channel, recorded.get(channel), asked.get(channel))
    return None
