"""Inference: from the heats of the words executed lately to the window's width (L5) and the decay's slope (L6).

Everything is computed in 64-bit floats from heats in executions (at most 2^24), in a fixed order, so that nothing
saturates and every machine finds the same numbers.

Bounds. The rings hold the last `RING` words and the microseconds of their execution; at most `RING` heats squared and
summed are 2^60, far inside a float's range.
"""

from __future__ import annotations

import numpy as np

from twin.heart.ticks import (
    P_SLOPE_MAX,
    P_SLOPE_MIN,
    S_EARLY_EXITS,
    S_EXECUTED,
    S_INFERENCES,
    S_SLOPE,
    S_WINDOW,
)
from twin.kernels import Floats, Integers, kernel
from twin.pool.layout import H_HEAT, H_STAMP
from twin.pool.tiers import KNEE, ONE_EXECUTION, decayed

RING = 4_096
"""How many executed words are remembered; also the widest window."""
WINDOW_MIN = 256
SIZE_STEP = 64
EARLY_SHARE = 3_276 / 65_536
"""An inference ends early when the variance changed by no more than this share (5 %) since the last full one."""

F_CRITICAL = (
    2.9957, 2.6049, 2.3719, 2.2141, 2.0986, 2.0096, 1.9384, 1.8799, 1.8307, 1.7886, 1.7522, 1.7202, 1.6918, 1.6664,
)  # fmt: skip
"""The F distribution's 95 % point for (K - 1, infinity) degrees of freedom, K = 3 .. 16 chunks."""
SLOPE_F = 3.8415
"""The same for (1, infinity): a slope that is less certain is left alone."""

_SQRT_HALF = 0.7071067811865476
_LN2 = 0.6931471805599453

# The scratch array: heats, then prefix sums of heats and of their squares, then the last full inference's variance.
_SUMS = RING
_SQUARES = 2 * RING + 1
_VARIANCE = 3 * RING + 2
SCRATCH = _VARIANCE + 1


def new_scratch() -> Floats:
    """Room for an inference; its last entry is the variance of the last full one (negative: there was none)."""
    scratch = np.zeros(SCRATCH, dtype=np.float64)
    scratch[_VARIANCE] = -1.0
    return scratch


@kernel
def ln_heat(heat: int) -> float:
    """Natural logarithm of a heat from 1 to 2^47, within 1e-7."""
    power = 0
    for step in (32, 16, 8, 4, 2, 1):
        if heat >> (power + step):
            power += step
    mantissa = heat / (1 << power)
    if mantissa > 2.0 * _SQRT_HALF:
        mantissa = mantissa * 0.5
        power += 1
    # |s| < 0.1716, so that the series after s^7 is below 3e-8.
    s = (mantissa - 1.0) / (mantissa + 1.0)
    q = s * s
    return power * _LN2 + 2.0 * s * (1.0 + q * (1.0 / 3.0 + q * (0.2 + q * (1.0 / 7.0))))


@kernel
def gather(
    cells: Integers,
    place: Integers,
    ring: Integers,
    executed: int,
    count: int,
    now_us: int,
    slope: int,
    scratch: Floats,
) -> None:
    """Fill the scratch with the heats (executions, cooled to now) of the last `count` words, the oldest first."""
    scale = 1.0 / ONE_EXECUTION
    for i in range(count):
        block = place[ring[(executed - count + i) & (RING - 1)]]
        scratch[i] = decayed(cells[block + H_HEAT], now_us - cells[block + H_STAMP], slope) * scale


@kernel
def variance_of(scratch: Floats, first: int, end: int) -> float:
    """The variance of the heats `first .. end - 1` around their mean."""
    count = end - first
    mean = distance(scratch, first, end, 0.0) / count
    total = 0.0
    for i in range(first, end):
        total += (scratch[i] - mean) * (scratch[i] - mean)
    return total / count


@kernel
def distance(scratch: Floats, first: int, end: int, centre: float) -> float:
    """The sum of the heats' absolute distances from `centre`.

    Eight sums at a time, so that an addition does not wait for the one before.
    """
    a = b = c = d = e = f = g = h = 0.0
    i = first
    while i + 8 <= end:
        a += abs(scratch[i] - centre)
        b += abs(scratch[i + 1] - centre)
        c += abs(scratch[i + 2] - centre)
        d += abs(scratch[i + 3] - centre)
        e += abs(scratch[i + 4] - centre)
        f += abs(scratch[i + 5] - centre)
        g += abs(scratch[i + 6] - centre)
        h += abs(scratch[i + 7] - centre)
        i += 8
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    while i < end:
        total += abs(scratch[i] - centre)
        i += 1
    return total


@kernel
def prepare(scratch: Floats, count: int) -> None:
    """Centre the heats (differences of large sums would lose digits) and make the prefix sums."""
    mean = distance(scratch, 0, count, 0.0) / count
    total = 0.0
    squares = 0.0
    scratch[_SUMS] = 0.0
    scratch[_SQUARES] = 0.0
    for i in range(count):
        value = scratch[i] - mean
        scratch[i] = value
        total += value
        squares += value * value
        scratch[_SUMS + i + 1] = total
        scratch[_SQUARES + i + 1] = squares


@kernel
def levene(scratch: Floats, count: int, size: int) -> float:
    """Levene's statistic: do the chunks of `size` among the last of `count` heats differ in spread?

    The analysis of variance of the absolute deviations from the chunk means. Needs `prepare` and at least two chunks.
    The newest heats are used when `count` is no multiple of `size`. 0 when nothing deviates at all.
    """
    chunks = count // size
    used = chunks * size
    means = 0.0
    means_squared = 0.0
    squares = 0.0
    for chunk in range(chunks):
        first = count - used + chunk * size
        end = first + size
        mean = (scratch[_SUMS + end] - scratch[_SUMS + first]) / size
        # The deviations' squares need no pass of their own: their sum is that of the squares less the mean's share.
        squares += (scratch[_SQUARES + end] - scratch[_SQUARES + first]) - size * (mean * mean)
        spread = distance(scratch, first, end, mean) / size
        means += spread
        means_squared += spread * spread
    between = size * (means_squared - means * means / chunks)
    within = squares - size * means_squared
    # Rounding leaves something where there is nothing; a share of 1e-12 is no spread.
    if between <= 1e-12 * squares or within <= 0.0:
        return 0.0
    return (used - chunks) / (chunks - 1.0) * between / within


@kernel
def width(scratch: Floats, count: int) -> int:
    """The smallest window (from 256 on, in steps of 64) whose chunks do not differ in spread; all there is if none.

    Needs `prepare`. At least 256.
    """
    size = WINDOW_MIN
    while count // size >= 3:
        if levene(scratch, count, size) <= F_CRITICAL[count // size - 3]:
            return size
        size += SIZE_STEP
    return max(count, WINDOW_MIN)


@kernel
def cooling(
    cells: Integers,
    place: Integers,
    ring: Integers,
    times: Integers,
    seen: Integers,
    mark: int,
    executed: int,
    count: int,
    now_us: int,
    slope: int,
) -> float:
    """How fast heat falls with the time since a word was executed, in 1/us; 0 when that is not certain.

    The regression of ln(heat) on that time over the different words among the last `count`, each at its last execution
    (earlier ones say nothing: a word has one heat). `seen` remembers which words had their turn, by `mark`.
    """
    n = 0
    sum_x = sum_y = sum_xx = sum_xy = sum_yy = 0.0
    for back in range(1, count + 1):
        at = (executed - back) & (RING - 1)
        word = ring[at]
        if seen[word] != mark:
            seen[word] = mark
            block = place[word]
            heat = decayed(cells[block + H_HEAT], now_us - cells[block + H_STAMP], slope)
            if heat > 0:
                # Milliseconds and heats in executions keep the sums near 1.
                x = (now_us - times[at]) * 0.001
                y = ln_heat(heat) - 16.0 * _LN2
                n += 1
                sum_x += x
                sum_y += y
                sum_xx += x * x
                sum_xy += x * y
                sum_yy += y * y
    if n < 3:
        return 0.0
    xx = sum_xx - sum_x * sum_x / n
    xy = sum_xy - sum_x * sum_y / n
    yy = sum_yy - sum_y * sum_y / n
    if xx <= 1e-9 * sum_xx:
        return 0.0
    explained = xy * xy / xx
    if explained * (n - 2) <= SLOPE_F * (yy - explained):
        return 0.0
    return abs(xy / xx) * 0.001


@kernel
def next_slope(slope: int, rate_per_us: float, lowest: int, highest: int) -> int:
    """The slope after an inference: what cools a word of the knee's heat at that rate, reached at most by factors of 2.

    Stays where it is for a rate of 0, and within lowest..highest always.
    """
    if rate_per_us > 0.0:
        wanted = rate_per_us * KNEE
        if wanted > 2.0 * slope:
            wanted = 2.0 * slope
        if wanted < 0.5 * slope:
            wanted = 0.5 * slope
        slope = int(wanted + 0.5)
    return min(max(slope, lowest), highest)


@kernel
def infer(
    parameters: Integers,
    state: Integers,
    cells: Integers,
    place: Integers,
    ring: Integers,
    times: Integers,
    seen: Integers,
    scratch: Floats,
    now_us: int,
    cooled_by: int,
    width_on: bool,
    slope_on: bool,
) -> None:
    """One inference at the microsecond `now_us`; needs at least two executed words.

    Heats are cooled by the slope `cooled_by` (0 while decay is off). The window's variance decides whether there is
    anything new; the width is chosen from everything that is remembered, so that it can grow again.
    """
    executed = state[S_EXECUTED]
    count = min(executed, RING)
    window = min(count, state[S_WINDOW])
    state[S_INFERENCES] += 1
    gather(cells, place, ring, executed, count, now_us, cooled_by, scratch)
    variance = variance_of(scratch, count - window, count)
    last = scratch[_VARIANCE]
    if last >= 0.0 and abs(variance - last) <= EARLY_SHARE * last:
        state[S_EARLY_EXITS] += 1
        return
    scratch[_VARIANCE] = variance
    if width_on:
        prepare(scratch, count)
        state[S_WINDOW] = width(scratch, count)
    if slope_on:
        mark = state[S_INFERENCES]
        rate = cooling(cells, place, ring, times, seen, mark, executed, window, now_us, cooled_by)
        state[S_SLOPE] = next_slope(state[S_SLOPE], rate, parameters[P_SLOPE_MIN], parameters[P_SLOPE_MAX])
