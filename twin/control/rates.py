"""Rates out of counters: power from energy, load from processor time, frames a second from a count of frames.

The one place where counters become rates, for simulated and real ones alike. A rate is None until two plausible sights
of its counter are there.
"""

from __future__ import annotations

from collections import deque

from twin.timing import SECOND_NS

MOST_FRAMES = 1_000_000
"""A count that rises by more within a second or so counts no frames."""


class PowerMeter:
    """Mean power between two sights of an energy counter (uJ) that wraps at `wrap` (None: nobody knows where).

    `most_microwatts` is what the processor can draw: what implies more is a counter that was reset, or went round more
    than once.
    """

    def __init__(self, wrap: int | None, most_microwatts: int) -> None:
        self._wrap = wrap
        self._most_microwatts = most_microwatts
        self._last: tuple[int, int] | None = None

    def see(self, microjoules: int | None, taken_ns: int) -> int | None:
        """Microwatts since the counter was last seen; `taken_ns` is when it was read."""
        last, wrap = self._last, self._wrap
        if microjoules is None:
            return None
        self._last = (microjoules, taken_ns)
        if last is None or taken_ns <= last[1]:
            return None
        spent = microjoules - last[0]
        if wrap is not None and (taken_ns - last[1]) * self._most_microwatts // SECOND_NS > wrap:
            return None  # it may have gone round more than once
        if spent < 0:
            if wrap is None:
                return None
            spent += wrap + 1
        microwatts = spent * SECOND_NS // (taken_ns - last[1])
        return microwatts if 0 <= microwatts <= self._most_microwatts else None

    def forget(self) -> None:
        """Begin anew, as after a suspend."""
        self._last = None


class LoadMeter:
    """The share of processor time that was used between two sights of its counters (ticks)."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def see(self, busy: int | None, total: int | None) -> int | None:
        """Parts in a million since the counters were last seen."""
        last = self._last
        if busy is None or total is None:
            return None
        self._last = (busy, total)
        if last is None or total <= last[1] or not 0 <= busy - last[0] <= total - last[1]:
            return None
        return (busy - last[0]) * 1_000_000 // (total - last[1])

    def forget(self) -> None:
        """Begin anew, as after a suspend."""
        self._last = None


class FrameMeter:
    """Frames a second out of a count of frames."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque()

    def see(self, count: int | None, now_ns: int) -> int | None:
        """Millihertz since a second ago, or as long as they were counted."""
        seen = self._seen
        if count is None or (seen and (count < seen[-1][1] or now_ns <= seen[-1][0])):
            seen.clear()
        if count is None:
            return None
        seen.append((now_ns, count))
        while len(seen) > 2 and seen[1][0] <= now_ns - SECOND_NS:
            seen.popleft()
        first_ns, first = seen[0]
        if now_ns <= first_ns or not 0 <= count - first <= MOST_FRAMES:
            return None
        return (count - first) * 1_000 * SECOND_NS // (now_ns - first_ns)


def most_cpu_microwatts(pl2_watts: float) -> int:
    """What a processor can draw at most, from its short limit: a few times that."""
    return 2_000_000 * round(pl2_watts)


def most_gpu_microwatts(power_limit_watts: float) -> int:
    """What a card can draw at most, from its limit."""
    return 4_000_000 * round(power_limit_watts)
