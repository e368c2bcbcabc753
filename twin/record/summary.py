"""What the machine did in a run, in a few figures, from what crossed the seam alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardware.interface import Channel, Readings
from twin.control.view import View
from twin.kernels import Integers
from twin.timing import SECOND_NS

FULL_SPEED_ACTIONS = ("noop", "boost")
MICRO = 1_000_000


class RunSummary:
    """Gathers figures cycle by cycle. A figure that cannot be known is None, with the reason beside it."""

    def __init__(self, channels: tuple[Channel, ...]) -> None:
        self._names = tuple(channel.name for channel in channels)
        self._came = [False] * len(channels)
        self._cycles = 0
        self._energy_microjoules_ns = 0
        self._powered_ns = 0
        self._hottest: int | None = None
        self._over_ns = 0
        self._held_back = 0
        self._failsafe = 0
        self._suspected = 0
        self._frame_rates: list[int] = []
        self._latencies: list[int] = []
        self._ticks = 0
        self._words = 0
        self._longest_lateness_ns = 0

    def ticks(self, words: Integers, lateness_ns: Integers) -> None:
        """Take heartbeat ticks: words executed and lateness, one entry a tick."""
        self._ticks += len(words)
        self._words += int(words.sum())
        self._longest_lateness_ns = max(self._longest_lateness_ns, int(lateness_ns.max()))

    def cycle(self, view: View, readings: Readings, action: str, failsafe: bool) -> None:
        """Take a control cycle: what was seen, the action, and whether the machine was cooled for safety."""
        self._cycles += 1
        for place, value in enumerate(readings.values):
            if value is not None:
                self._came[place] = True
        powers = [p for p in (view.cpu_power_microwatts, view.gpu_power_microwatts) if p is not None]
        if powers:
            self._energy_microjoules_ns += sum(powers) * view.dt_ns
            self._powered_ns += view.dt_ns
        for temp, limit in zip(view.temps_millicelsius, view.limits_millicelsius, strict=True):
            if temp is not None and (self._hottest is None or temp > self._hottest):
                self._hottest = temp
            if temp is not None and temp > limit:
                self._over_ns += view.dt_ns
        self._held_back += action not in FULL_SPEED_ACTIONS
        self._failsafe += failsafe
        self._suspected += bool(view.suspicion)
        if view.frame_rate_millihertz is not None:
            self._frame_rates.append(view.frame_rate_millihertz)
        if view.frame_latency_microseconds is not None:
            self._latencies.append(view.frame_latency_microseconds)

    @property
    def missing(self) -> list[str]:
        """The channels that never had a value."""
        return [name for name, came in zip(self._names, self._came, strict=True) if not came]

    def result(self) -> dict[str, Any]:
        """The figures, and under `reasons` why a figure is None. Means are of the cycles in which a value was there."""
        reasons: dict[str, str] = {}

        def known(name: str, value: Any, there: bool, reason: str) -> Any:
            if not there:
                reasons[name] = reason
            return value if there else None

        rates, latencies = self._frame_rates, self._latencies
        # microwatts times nanoseconds are 10^-15 joules
        joules = self._energy_microjoules_ns // MICRO / SECOND_NS
        return {
            "ticks": self._ticks,
            "cycles": self._cycles,
            "word_executions": self._words,
            "longest_lateness_ns": self._longest_lateness_ns,
            "energy_joules": known("energy_joules", joules, self._powered_ns > 0, "no power was ever read"),
            "max_temp_millicelsius": known(
                "max_temp_millicelsius", self._hottest, self._hottest is not None, "no temperature was ever believed"
            ),
            "time_over_limit_ns": known(
                "time_over_limit_ns", self._over_ns, self._hottest is not None, "no temperature was ever believed"
            ),
            "throttle_ratio": known(
                "throttle_ratio", self._held_back / max(1, self._cycles), self._cycles > 0, "there was no control cycle"
            ),
            "failsafe_ratio": known(
                "failsafe_ratio", self._failsafe / max(1, self._cycles), self._cycles > 0, "there was no control cycle"
            ),
            "suspicion_ratio": known(
                "suspicion_ratio",
                self._suspected / max(1, self._cycles),
                self._cycles > 0,
                "there was no control cycle",
            ),
            "fps_mean": known(
                "fps_mean", sum(rates) / max(1, len(rates)) / 1_000, bool(rates), "no frame rate was ever read"
            ),
            "latency_p99_us": known(
                "latency_p99_us",
                int(np.percentile(latencies, 99, method="higher")) if latencies else None,
                bool(latencies),
                "no frame latency was ever read",
            ),
            "reasons": reasons,
        }
