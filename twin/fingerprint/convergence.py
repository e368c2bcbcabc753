"""When a run becomes steady, how steady it is then, and how it gets there.

A series that is nowhere negative may have ticks without a value: they are negative, and left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twin.fingerprint.series import NotKnown
from twin.kernels import Floats, Integers, kernel, kernel_nonzero

BLOCK_TICKS = 1_000
"""Ticks of a block."""
LEAST_TICKS = 100
"""Ticks with a value that a block needs to have a coefficient of variation."""
QUIET_CV = 0.05
"""A block whose coefficient of variation is below this is quiet."""
QUIET_BLOCKS = 10
"""Quiet blocks in a row that make a run steady."""
WINDOW_TICKS = 256
"""Ticks of the moving mean."""
WAY = 0.95
"""The part of the way to the steady value that is called rising."""
BAND = 0.05
"""Within this part of the steady value a moving mean has settled."""


class Convergence(NamedTuple):
    """When a run became steady, and whether it stayed so."""

    time_ticks: int
    """The first tick of the steady state: a multiple of `BLOCK_TICKS`."""
    hold_ratio: float | None
    """The share of quiet blocks among those after the first `QUIET_BLOCKS` quiet ones; None when there is none."""


class Response(NamedTuple):
    """How a series came to its steady value, by its moving mean."""

    rise_ticks: int | None
    """The first tick at which it has gone `WAY` of the way from the series' first value; None when it never has."""
    settling_ticks: int
    """The last tick at which it is outside the band around the steady value; 0 when it never is."""
    peak: float
    """Its largest value."""


@kernel_nonzero
def hit_percent(part: Integers, other: Integers, out: Floats) -> None:
    """Into `out` 100 * part / (part + other), from 0 to 100; -1 where both are 0."""
    for t in range(len(part)):
        both = part[t] + other[t]
        out[t] = 100.0 * part[t] / both if both > 0 else -1.0


@kernel
def mean_and_variation(values: Floats, start: int, stop: int, least: int, out: Floats) -> None:
    """Into `out` the mean and the population standard deviation over the mean of the ticks start .. stop - 1.

    Both are -1 where fewer than `least` (1 or more) of them have a value. Where the mean is 0, so are all values, and
    the second is 0.
    """
    count = 0
    away = 0.0
    first = -1.0
    for t in range(start, stop):
        if values[t] >= 0.0:
            if count == 0:
                first = values[t]
            count += 1
            away += values[t] - first
    out[0] = -1.0
    out[1] = -1.0
    if count < least:
        return
    mean = first + away / count
    squares = 0.0
    for t in range(start, stop):
        if values[t] >= 0.0:
            squares += (values[t] - mean) * (values[t] - mean)
    out[0] = mean
    out[1] = np.sqrt(squares / count) / mean if mean > 0.0 else 0.0


@kernel
def block_variations(values: Floats, block: int, least: int, out: Floats) -> None:
    """Into `out` the coefficient of variation of each whole block; -1 where it has fewer than `least` values."""
    both = np.zeros(2)
    for number in range(len(values) // block):
        mean_and_variation(values, number * block, (number + 1) * block, least, both)
        out[number] = both[1]


@kernel
def step_response(values: Floats, window: int, start: float, steady: float, way: float, band: float,
                  out: Floats) -> None:  # fmt: skip
    """Into `out` the tick of rise, the last tick outside the band (-1 each for none) and the peak, of the moving mean.

    The mean of the `window` ticks up to each is put together from a sum up to it and a sum of those before, so that
    nothing is ever subtracted from a sum. A window without values has no mean.
    """
    before = np.zeros(window + 1)
    values_before = np.zeros(window + 1)
    up_to = 0.0
    values_up_to = 0.0
    target = start + way * (steady - start)
    low = steady - band * steady
    high = steady + band * steady
    out[0] = -1.0
    out[1] = -1.0
    out[2] = -1.0
    for t in range(len(values)):
        place = t % window
        if place == 0:
            if t > 0:
                for back in range(window - 1, -1, -1):
                    value = values[t - window + back]
                    there = value >= 0.0
                    before[back] = before[back + 1] + (value if there else 0.0)
                    values_before[back] = values_before[back + 1] + (1.0 if there else 0.0)
            up_to = 0.0
            values_up_to = 0.0
        if values[t] >= 0.0:
            up_to += values[t]
            values_up_to += 1.0
        count = values_before[place + 1] + values_up_to
        if t < window - 1 or count == 0.0:
            continue
        mean = (before[place + 1] + up_to) / count
        if out[0] < 0.0 and ((steady >= start and mean >= target) or (steady < start and mean <= target)):
            out[0] = float(t)
        if mean < low or mean > high:
            out[1] = float(t)
        if mean > out[2]:
            out[2] = mean


def variation(values: Floats, start: int = 0) -> tuple[float, float]:
    """Mean, and population standard deviation over mean, of the ticks from `start` on that have a value.

    Raises `NotKnown` when none has.
    """
    out = np.zeros(2)
    mean_and_variation(values, start, len(values), 1, out)
    if out[0] < 0.0:
        raise NotKnown("no tick has a value")
    return float(out[0]), float(out[1])


def convergence(values: Floats) -> Convergence:
    """When the series became steady: the first block of `QUIET_BLOCKS` quiet ones in a row.

    A block with fewer than `LEAST_TICKS` values has no coefficient of variation and is not quiet. Raises `NotKnown`
    when the series has fewer blocks than that or no value, or never becomes steady (`NeverSteady`).
    """
    blocks = len(values) // BLOCK_TICKS
    if blocks < QUIET_BLOCKS:
        raise NotKnown(f"the run has {len(values):,} ticks; {QUIET_BLOCKS} blocks of {BLOCK_TICKS:,} are needed")
    if not np.any(values >= 0.0):
        raise NotKnown("no tick executed a word")
    variations = np.zeros(blocks)
    block_variations(values, BLOCK_TICKS, LEAST_TICKS, variations)
    quiet = [0.0 <= each < QUIET_CV for each in variations.tolist()]
    in_a_row = 0
    for number, each in enumerate(quiet):
        in_a_row = in_a_row + 1 if each else 0
        if in_a_row == QUIET_BLOCKS:
            later = quiet[number + 1 :]
            hold = sum(later) / len(later) if later else None
            return Convergence((number + 1 - QUIET_BLOCKS) * BLOCK_TICKS, hold)
    raise NeverSteady(
        f"the run did not converge: nowhere do {QUIET_BLOCKS} blocks of {BLOCK_TICKS:,} ticks in a row have hit shares "
        f"that vary by less than {100 * QUIET_CV:g} %"
    )


class NeverSteady(NotKnown):
    """The series is long enough, and never becomes steady."""


def response(values: Floats, steady: float) -> Response:
    """How the series, which has a value somewhere, came to its steady value (0 or more).

    A series that starts within `BAND` of the steady value has risen at tick 0.
    """
    start = float(values[np.argmax(values >= 0.0)])
    out = np.zeros(3)
    step_response(values, WINDOW_TICKS, start, steady, WAY, BAND, out)
    rise = 0 if abs(start - steady) <= BAND * steady else int(out[0])
    return Response(None if rise < 0 else rise, max(0, int(out[1])), float(out[2]))
