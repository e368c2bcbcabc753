"""Fans: speed follows pwm / 255 * max_rpm with a first-order lag; a rotor needs more to start than to keep going."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twin.kernels import Floats, exp, kernel
from twin.scenario import Fan

# Columns of the fans array, one row a fan.
RPM = 0
MAXIMUM = 1
START = 2
STALL = 3
KEEP = 4

STANDSTILL_SHARE = 0.02
"""Below this share of max_rpm a rotor counts as standing, and takes `start_pwm` to get going."""


@kernel
def target_rpm(pwm: int, rpm: float, maximum: float, start_pwm: float, stall_pwm: float) -> float:
    """The speed that a fan turning at `rpm` tends to at `pwm` (0..255)."""
    needed = start_pwm if rpm < STANDSTILL_SHARE * maximum else stall_pwm
    return 0.0 if pwm < needed else pwm / 255.0 * maximum


@kernel
def spin(fans: Floats, fan: int, pwm: int) -> float:
    """Advance row `fan` by one step at `pwm`; returns the new speed (RPM, 0 when below 1)."""
    rpm: float = fans[fan, RPM]
    target = target_rpm(pwm, rpm, fans[fan, MAXIMUM], fans[fan, START], fans[fan, STALL])
    rpm = target + (rpm - target) * fans[fan, KEEP]
    if target == 0.0 and rpm < 1.0:
        rpm = 0.0
    fans[fan, RPM] = rpm
    return rpm


def fan_array(fans: Sequence[Fan], step_ms: int) -> Floats:
    """The fans in the layout that the kernels read, each at the speed of its `initial_pwm`."""
    rows = np.zeros((len(fans), 5))
    for row, fan in zip(rows, fans, strict=True):
        rpm = target_rpm(fan.initial_pwm, 0.0, float(fan.max_rpm), float(fan.start_pwm), float(fan.stall_pwm))
        row[:] = (rpm, fan.max_rpm, fan.start_pwm, fan.stall_pwm, exp(-step_ms / fan.lag_ms))
    return rows
