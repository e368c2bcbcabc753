"""The learner's state: eight numbers made of what is seen, by the ranges of the scenario."""

from __future__ import annotations

import numpy as np

from twin.kernels import Floats, kernel
from twin.learn.facts import (
    CPU_LOAD,
    CPU_POWER,
    FIRST_SENSOR,
    FRAME_LATENCY,
    FRAME_RATE,
    GPU_LOAD,
    GPU_POWER,
    LIMITS,
    MEMORY_USED,
    WORST,
)  # fmt: skip
from twin.scenario import Learn

FEATURES = ("temperature", "headroom", "cpu", "gpu", "power", "frames", "latency", "memory")
TEMPERATURE, HEADROOM, CPU, GPU, POWER, FRAMES, LATENCY, MEMORY = range(8)
UNKNOWN = -1.0
"""Stands for what is not known, and is outside of what anything known is cut to: missing is not little."""
LOWEST = -0.5
HIGHEST = 1.5
NAN = float("nan")


@kernel
def _tightest(facts: Floats, sensors: int) -> tuple[float, float]:
    """Temperature and headroom (millidegrees) of the sensor with the least room; no numbers if one is not known."""
    hottest, least = NAN, NAN
    for i in range(sensors):
        worst = facts[FIRST_SENSOR + WORST * sensors + i]
        room = facts[FIRST_SENSOR + LIMITS * sensors + i] - worst
        if worst != worst:
            return NAN, NAN
        if not room >= least:
            hottest, least = worst, room
    return hottest, least


@kernel
def _drawn_microwatts(facts: Floats) -> float:
    """What processor and graphics draw together; no number when one of them is there and its power is not known."""
    cpu, gpu, load = facts[CPU_POWER], facts[GPU_POWER], facts[GPU_LOAD]
    return float(cpu if gpu != gpu and load != load else cpu + gpu)


@kernel
def fill_features(facts: Floats, ranges: Floats, sensors: int, state: Floats) -> None:
    """`Features.fill`."""
    state[TEMPERATURE], state[HEADROOM] = _tightest(facts, sensors)
    state[CPU] = facts[CPU_LOAD]
    state[GPU] = facts[GPU_LOAD]
    state[POWER] = _drawn_microwatts(facts)
    state[FRAMES] = facts[FRAME_RATE]
    state[LATENCY] = facts[FRAME_LATENCY]
    state[MEMORY] = facts[MEMORY_USED]
    for i in range(len(state)):
        share = (state[i] - ranges[i, 0]) / ranges[i, 1]
        if share != share:
            state[i] = UNKNOWN
        elif share < LOWEST:
            state[i] = LOWEST
        elif share > HIGHEST:
            state[i] = HIGHEST
        else:
            state[i] = share


class Features:
    """Puts the state of a view into an array. 0 and 1 are the ends of the scenario's ranges."""

    def __init__(self, settings: Learn, sensors: int) -> None:
        ranges = settings.ranges
        self._sensors = sensors
        self.ranges = np.array(
            [
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
            ]
        )

    def fill(self, facts: Floats, state: Floats) -> None:
        """Write the eight features into `state`: `LOWEST`..`HIGHEST`, or `UNKNOWN`.

        Temperature and headroom are those of the sensor that has the least room left. Power is that of
        processor and graphics together.
        """
        fill_features(facts, self.ranges, self._sensors, state)
