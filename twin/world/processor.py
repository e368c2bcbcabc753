"""What CPU and GPU have in common: power from clock, voltage, use and temperature, and the choice of a clock.

    P = cores * C * V^2 * f * u  +  V * I(T) * (u + (1 - u) * idle share)  +  idle power
    I(T) = leakage_amperes * exp(leakage_per_kelvin * (T - reference))

with u the share of core time in use: the switching power of CMOS and the usual exponential fit of its leakage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from twin.kernels import Floats, exp, kernel

SERVED_AT = 0.8
"""The governor picks the lowest clock at which the busiest core is in use for at most this share."""
DEMAND_MEMORY_MS = 100
"""A demand that is gone fades with this time constant, so that the next frame finds the clock still up."""
MOST_WATTS = 1e6
"""No processor draws more. Without a bound a strange machine's energy would not fit an integer."""
LEAKAGE_CEILING_CELSIUS = 150.0
"""Leakage grows no further: silicon does not live beyond, and the numbers stay finite."""

# Layout of a constants array.
CORES = 0
FARADS = 1
LEAKAGE_AMPERES = 2
LEAKAGE_PER_KELVIN = 3
LEAKAGE_REFERENCE = 4
IDLE_SHARE = 5
IDLE_WATTS = 6
TRIP = 7
RECOVERY = 8
MEMORY = 9
CONSTANTS = 10

# Columns of a clock table, one row a level, slowest first.
KILOHERTZ = 0
VOLTS = 1


def clock_table(frequencies_kilohertz: Sequence[int], voltages_millivolt: Sequence[int]) -> Floats:
    """Levels as rows of kilohertz and volts. Raises `ValueError` unless clocks rise and each has its voltage."""
    if len(frequencies_kilohertz) != len(voltages_millivolt):
        raise ValueError(f"{len(frequencies_kilohertz)} clocks have {len(voltages_millivolt)} voltages; give one each")
    if any(a >= b for a, b in pairwise(frequencies_kilohertz)):
        raise ValueError(f"clocks must rise from one to the next; these do not: {tuple(frequencies_kilohertz)}")
    return np.array([(float(f), v / 1000.0) for f, v in zip(frequencies_kilohertz, voltages_millivolt, strict=True)])


@kernel
def watts_at(constants: Floats, kilohertz: float, volts: float, use: float, celsius: float) -> float:
    """Power (W) at a clock and voltage, with `use` (0..1) of the core time in use, at a die temperature."""
    hot = min(celsius, LEAKAGE_CEILING_CELSIUS)
    amperes = constants[LEAKAGE_AMPERES] * exp(constants[LEAKAGE_PER_KELVIN] * (hot - constants[LEAKAGE_REFERENCE]))
    switching: float = constants[CORES] * constants[FARADS] * volts * volts * (kilohertz * 1000.0) * use
    leaking: float = volts * amperes * (use + (1.0 - use) * constants[IDLE_SHARE])
    idle: float = constants[IDLE_WATTS]
    return min(switching + leaking + idle, MOST_WATTS)


@kernel
def use_at(cores: float, kilohertz: float, load_kilohertz: float, frame_kilohertz: float) -> float:
    """Mean share of core time in use (0..1) at a clock, over cores that fill up one by one.

    `load_kilohertz` is the background demand of every core, `frame_kilohertz` that of the one core that also makes
    frames; no core is in use for more than all of its time, whatever the others have left.
    """
    background = min(1.0, load_kilohertz / kilohertz)
    frame_core = min(1.0, background + frame_kilohertz / kilohertz)
    return (frame_core + (cores - 1.0) * background) / cores


@kernel
def remembered(constants: Floats, before_kilohertz: float, kilohertz: float) -> float:
    """The demand that the governor reckons with: that of the last step, or what is left of a higher one before."""
    faded: float = constants[MEMORY] * before_kilohertz
    return max(kilohertz, faded)


@kernel
def served_level(table: Floats, kilohertz: float) -> int:
    """The lowest level that serves a core's demand of `kilohertz` at 80 % use, or the highest."""
    top = table.shape[0] - 1
    level = 0
    while level < top and table[level, KILOHERTZ] * SERVED_AT < kilohertz:
        level += 1
    return level


@kernel
def capped_level(table: Floats, level: int, kilohertz: int) -> int:
    """`level`, lowered until its clock is at most `kilohertz` (level 0 always remains)."""
    while level > 0 and table[level, KILOHERTZ] > kilohertz:
        level -= 1
    return level


@kernel
def powered_level(
    constants: Floats, table: Floats, level: int, limit_watts: float, load: float, frames: float, celsius: float
) -> int:
    """`level`, lowered until the power expected for the demands (kHz) is at most `limit_watts` (level 0 remains)."""
    while level > 0:
        kilohertz = table[level, KILOHERTZ]
        use = use_at(constants[CORES], kilohertz, load, frames)
        if watts_at(constants, kilohertz, table[level, VOLTS], use, celsius) <= limit_watts:
            break
        level -= 1
    return level


@kernel
def throttled_levels(constants: Floats, drop: int, top: int, celsius: float) -> int:
    """How many levels are taken off the highest: one more at or above the trip, one less below the hysteresis."""
    if celsius >= constants[TRIP]:
        return min(drop + 1, top)
    if celsius < constants[RECOVERY]:
        return max(drop - 1, 0)
    return drop
