"""Time: two SimPy environments in integer nanoseconds, alike to the processes that run in them.

`VirtualEnvironment` runs as fast as it can and takes the lateness of each wake-up from a source (a model, or a log).
`WallEnvironment` sleeps to absolute deadlines on the monotonic clock and measures it. In both, `now` is when something
was due, and events that are due at the same time happen in the order of `Order`. Nothing else reads a clock.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np
from simpy import Environment, Event

from twin.kernels import Integers, draw32, kernel, stream_key_array
from twin.timing import MILLISECOND_NS, SECOND_NS, Wake


class Order(IntEnum):
    """Which of the events that are due at the same time happens first. SimPy's own have 0 and 1."""

    END = 0
    WORLD = 2
    FAULTS = 3
    HEARTBEAT = 4
    CONTROL = 5
    RECORDER = 6


class Lateness(Protocol):
    """Where a virtual environment takes the lateness of wake-ups from."""

    def heart(self, first_tick: int, count: int) -> Integers:
        """Lateness in nanoseconds of `count` heartbeat ticks from `first_tick` on; fewer when no more are known."""

    def control(self, cycle: int) -> Wake:
        """How control cycle number `cycle` woke."""


class Punctual:
    """Nothing is ever late."""

    def heart(self, first_tick: int, count: int) -> Integers:
        """`count` zeros."""
        return np.zeros(count, dtype=np.int64)

    def control(self, cycle: int) -> Wake:
        """On time."""
        return Wake(0)


class EndOfRecording(Exception):  # noqa: N818 - an end is not an error
    """A recorded run has no more of what was asked for: the replay is over."""


class RecordedLateness:
    """Lateness out of a log: `heart_ns` has one entry a tick, `wakes` one a control cycle."""

    def __init__(self, heart_ns: Integers, wakes: Sequence[Wake]) -> None:
        self._heart_ns = heart_ns
        self._wakes = wakes

    def heart(self, first_tick: int, count: int) -> Integers:
        """What was recorded; raises `EndOfRecording` when nothing is left."""
        if first_tick >= len(self._heart_ns):
            raise EndOfRecording(f"the log ends before tick {first_tick}")
        return self._heart_ns[first_tick : first_tick + count]

    def control(self, cycle: int) -> Wake:
        """What was recorded; raises `EndOfRecording` when nothing is left."""
        if cycle >= len(self._wakes):
            raise EndOfRecording(f"the log ends before control cycle {cycle}")
        return self._wakes[cycle]


class ModelledLateness:
    """Lateness of simulated ticks: drawn for each tick from a distribution given by its quantiles.

    `quantiles_ns` are those of `PROBABILITIES`, with straight lines between them. The draw depends on the seed and the
    tick's number alone, so that a batch draws what single ticks draw. Control cycles are punctual.
    """

    PROBABILITIES = (0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99, 0.999, 1.0)

    def __init__(self, quantiles_ns: tuple[int, ...], seed: int) -> None:
        if len(quantiles_ns) != len(self.PROBABILITIES):
            raise ValueError(f"{len(quantiles_ns)} quantiles given; {len(self.PROBABILITIES)} are needed")
        self._quantiles_ns = np.array(quantiles_ns, dtype=np.int64)
        self._thresholds = np.array([int(p * (1 << 32)) for p in self.PROBABILITIES], dtype=np.int64)
        self._keys = stream_key_array(seed, "clock.lateness")

    def heart(self, first_tick: int, count: int) -> Integers:
        """`count` draws."""
        out = np.empty(count, dtype=np.int64)
        _draw_lateness(self._keys, self._quantiles_ns, self._thresholds, first_tick, out)
        return out

    def control(self, cycle: int) -> Wake:
        """On time."""
        return Wake(0)


@kernel
def _draw_lateness(keys: Integers, quantiles_ns: Integers, thresholds: Integers, first: int, out: Integers) -> None:
    for i in range(len(out)):
        draw = draw32(keys[0], keys[1], first + i)
        segment = 0
        while draw >= thresholds[segment + 1]:
            segment += 1
        low = quantiles_ns[segment]
        width = thresholds[segment + 1] - thresholds[segment]
        # At most 10^9 ns times 2^30: far inside int64.
        out[i] = low + (quantiles_ns[segment + 1] - low) * (draw - thresholds[segment]) // width


class TwinEnvironment(Environment, ABC):
    """What both environments offer to processes, over SimPy's own."""

    def at(self, time_ns: int, order: Order) -> Event:
        """An event at `time_ns` (not before now) in its place among those that are due at the same time."""
        return self.after(time_ns - int(self._now), order)

    def after(self, delay_ns: int, order: Order = Order.WORLD) -> Event:
        """An event `delay_ns` (from 0 on) from now."""
        if delay_ns < 0:
            raise ValueError(f"an event at {self._now + delay_ns} ns would lie before now, {self._now} ns")
        event = Event(self)
        event._ok = True
        event._value = None
        self.schedule(event, order, delay_ns)  # type: ignore[arg-type]
        return event

    @abstractmethod
    def heart_horizon(self, next_input_ns: int) -> int:
        """Up to (not including) which time the heartbeat may run its ticks in one go."""

    @abstractmethod
    def heart_lateness(self, first_tick: int, count: int) -> Integers:
        """Lateness of up to `count` ticks from `first_tick` on, nanoseconds."""

    @abstractmethod
    def control_wake(self, cycle: int) -> Wake:
        """How control cycle `cycle`, which is due now, woke."""

    @abstractmethod
    def elapsed_ns(self) -> int:
        """Nanoseconds since the run began, for stamping readings."""


class VirtualEnvironment(TwinEnvironment):
    """As fast as possible. `batch=False` gives the heartbeat one tick at a time (the same bits, for tests)."""

    def __init__(self, lateness: Lateness | None = None, batch: bool = True) -> None:
        super().__init__(0)
        self._lateness = lateness or Punctual()
        self._batch = batch

    def heart_horizon(self, next_input_ns: int) -> int:
        """The next input, or one tick when batching is off."""
        return next_input_ns if self._batch else int(self._now) + 1

    def heart_lateness(self, first_tick: int, count: int) -> Integers:
        """From the lateness source."""
        return self._lateness.heart(first_tick, count)

    def control_wake(self, cycle: int) -> Wake:
        """From the lateness source."""
        return self._lateness.control(cycle)

    def elapsed_ns(self) -> int:
        """Virtual time: reading takes none."""
        return int(self._now)


class WallEnvironment(TwinEnvironment):
    """Real time: before an event is processed the thread sleeps until it is due.

    `monotonic_ns`, `boottime_ns` and `sleep_until_ns` are the three functions that touch the machine; tests replace
    them.
    """

    SUSPEND_THRESHOLD_NS = 10 * MILLISECOND_NS

    def __init__(
        self,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        boottime_ns: Callable[[], int] | None = None,
        sleep_until_ns: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(0)
        self._monotonic_ns = monotonic_ns
        self._boottime_ns = boottime_ns or _boottime_ns
        self._sleep_until_ns = sleep_until_ns or _sleep_until_ns
        self._start_ns: int | None = None
        self._suspended_before_ns = 0
        self._woke_ns = 0

    def step(self) -> None:
        """Sleep until the next event is due, note when this thread woke, and process the event."""
        if self._start_ns is None:
            # Time begins with the first event, so that what was prepared before makes nothing late.
            self._start_ns = self._monotonic_ns()
            self._suspended_before_ns = self._boottime_ns() - self._start_ns
        due = self.peek()
        if isinstance(due, int):
            self._sleep_until_ns(self._start_ns + due)
        self._woke_ns = self.elapsed_ns()
        super().step()

    def heart_horizon(self, next_input_ns: int) -> int:
        """One tick: the next one is due in the future."""
        return int(self._now) + 1

    def heart_lateness(self, first_tick: int, count: int) -> Integers:
        """Measured for the tick that is due now."""
        return np.array([max(0, self._woke_ns - int(self._now))], dtype=np.int64)

    def control_wake(self, cycle: int) -> Wake:
        """Measured; a boot clock that ran ahead of the monotonic one means that the machine was suspended."""
        ahead = self._boottime_ns() - self._monotonic_ns()
        suspended = ahead - self._suspended_before_ns
        if suspended < self.SUSPEND_THRESHOLD_NS:
            suspended = 0
        else:
            self._suspended_before_ns = ahead
        return Wake(max(0, self._woke_ns - int(self._now)), suspended)

    def elapsed_ns(self) -> int:
        """The monotonic clock since the first event; 0 before it."""
        return 0 if self._start_ns is None else self._monotonic_ns() - self._start_ns


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _sleep_until_ns(deadline_ns: int) -> None:
    # time.sleep takes an interval, but a loop around the absolute deadline keeps errors from adding up.
    remaining = deadline_ns - time.monotonic_ns()
    while remaining > 0:
        time.sleep(remaining / SECOND_NS)
        remaining = deadline_ns - time.monotonic_ns()
