"""A view as an array, which kernels read: what is not known is not a number there."""

from __future__ import annotations

import numpy as np

from twin.control.view import View
from twin.kernels import Floats

# Of the facts, in the units of a view; behind them `SENSOR_FACTS` for each sensor, one kind after another, and the
# speed of each fan (rpm).
(
    DT_NS, CPU_LOAD, CPU_POWER, CPU_CLOCK, GPU_LOAD, GPU_POWER, FRAME_RATE, FRAME_LATENCY, MEMORY_USED, FIRST_SENSOR,
) = range(10)  # fmt: skip

# Of each sensor: what is believed, what the model expects, the hotter of both, and the limit (millidegrees).
TEMPS, EXPECTED, WORST, LIMITS = range(4)
SENSOR_FACTS = 4


def new_facts(sensors: int, fans: int) -> Floats:
    """Room for the facts of a machine."""
    return np.zeros(FIRST_SENSOR + SENSOR_FACTS * sensors + fans)


def fill_facts(view: View, facts: Floats) -> None:
    """Write what `view` knows. NumPy makes of None what is not a number."""
    facts[:] = (
        view.dt_ns,
        view.cpu_load_ppm,
        view.cpu_power_microwatts,
        view.cpu_clock_kilohertz,
        view.gpu_load_ppm,
        view.gpu_power_microwatts,
        view.frame_rate_millihertz,
        view.frame_latency_microseconds,
        view.memory_used_ppm,
        *view.temps_millicelsius,
        *view.expected_millicelsius,
        *view.worst_millicelsius,
        *view.limits_millicelsius,
        *view.fan_rpm,
    )
