"""The learner's state: eight numbers made of what is seen, by the ranges of the scenario."""

from __future__ import annotations

from twin.control.view import View
from twin.kernels import Floats
from twin.scenario import Learn

FEATURES = ("temperature", "headroom", "cpu", "gpu", "power", "frames", "latency", "memory")
TEMPERATURE, HEADROOM, CPU, GPU, POWER, FRAMES, LATENCY, MEMORY = range(8)
UNKNOWN = -1.0
"""Stands for what is not known, and is outside of what anything known is cut to: missing is not little."""
LOWEST = -0.5
HIGHEST = 1.5


class Features:
    """Puts the state of a view into an array. 0 and 1 are the ends of the scenario's ranges."""

    def __init__(self, settings: Learn) -> None:
        ranges = settings.ranges
        self._ranges = tuple(
            (low * scale, (high - low) * scale)
            for (low, high), scale in (
                (ranges.temperature_celsius, 1e3),
                (ranges.headroom_celsius, 1e3),
                ((0.0, 1.0), 1e6),
                ((0.0, 1.0), 1e6),
                (ranges.power_watts, 1e6),
                (ranges.frames_per_second, 1e3),
                (ranges.latency_ms, 1e3),
                ((0.0, 1.0), 1e6),
            )
        )

    def fill(self, view: View, state: Floats) -> None:
        """Write the eight features of `view` into `state`: `LOWEST`..`HIGHEST`, or `UNKNOWN`.

        Temperature and headroom are those of the sensor that has the least room left. Power is that of
        processor and graphics together.
        """
        temperature, headroom = tightest(view)
        values = (
            temperature,
            headroom,
            view.cpu_load_ppm,
            view.gpu_load_ppm,
            drawn_microwatts(view),
            view.frame_rate_millihertz,
            view.frame_latency_microseconds,
            view.memory_used_ppm,
        )
        found = []
        for value, (low, span) in zip(values, self._ranges, strict=True):
            share = UNKNOWN if value is None else (value - low) / span
            if value is not None and not LOWEST <= share <= HIGHEST:
                share = min(max(share, LOWEST), HIGHEST)
            found.append(share)
        state[:] = found


def tightest(view: View) -> tuple[int | None, int | None]:
    """Temperature and headroom (millidegrees) of the sensor with the least room; (None, None) if one is not known."""
    hottest: int | None = None
    least: int | None = None
    for worst, limit in zip(view.worst_millicelsius, view.limits_millicelsius, strict=True):
        if worst is None:
            return (None, None)
        if least is None or limit - worst < least:
            hottest, least = worst, limit - worst
    return (hottest, least)


def drawn_microwatts(view: View) -> int | None:
    """What processor and graphics draw together; None when one of them is there and its power is not known."""
    graphics = view.gpu_power_microwatts
    if view.cpu_power_microwatts is None or (graphics is None and view.gpu_load_ppm is not None):
        return None
    return view.cpu_power_microwatts + (0 if graphics is None else graphics)
