"""Inference: from the heats of the words executed lately to the window's width (L5) and the decay's slope (L6).

Heats are compared by their logarithms, because a few hot words would outweigh all others. Everything is computed in
64-bit floats in a fixed order, so that nothing saturates and every machine finds the same numbers.

Bounds. The rings hold the last `RING` words, the microsecond of their execution and their heat then. Logarithms of
1 + executions are at most 17; `RING` of them squared and summed are far inside a float's exact range.
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
BLOCK = 64
"""Windows are tried in steps of so many words, and so many words together are one witness of spread."""
EARLY_SHARE = 3_276 / 65_536
"""An inference ends early when the variance changed by no more than this share (5 %) since the last full one."""

F_CRITICAL = (
    3.1478, 2.7581, 2.5279, 2.3738, 2.2625, 2.1782, 2.1119, 2.0585, 2.0147, 1.9782, 1.9475, 1.9214, 1.8992, 1.8802,
)  # fmt: skip
"""The F distribution's 95 % point for (K - 1, 64 - K) degrees of freedom, K = 3 .. 16 chunks of a full ring."""
SLOPE_F = 3.8415
"""The same for (1, infinity) degrees: a slope that is less certain is left alone."""

_SQRT_HALF = 0.7071067811865476
_LN2 = 0.6931471805599453

# The scratch array: heats, then their prefix sums, then the last full inference's variance.
_SUMS = RING
_VARIANCE = 2 * RING + 1
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
    """Fill the scratch with ln(1 + heat in executions, cooled to now) of the last `count` words, the oldest first."""
    for i in range(count):
        block = place[ring[(executed - count + i) & (RING - 1)]]
        heat = decayed(cells[block + H_HEAT], now_us - cells[block + H_STAMP], slope)
        scratch[i] = ln_heat(heat + ONE_EXECUTION) - 16.0 * _LN2


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
    """Centre the heats (differences of large sums would lose digits) and make their prefix sums."""
    mean = distance(scratch, 0, count, 0.0) / count
    total = 0.0
    scratch[_SUMS] = 0.0
    for i in range(count):
        value = scratch[i] - mean
        scratch[i] = value
        total += value
        scratch[_SUMS + i + 1] = total


@kernel
def levene(scratch: Floats, count: int, size: int) -> float:
    """Levene's statistic: do the chunks of `size` (a multiple of `BLOCK`) among the last of `count` heats differ in
    spread?

    The analysis of variance of the absolute deviations from the chunk means, averaged over blocks of `BLOCK` words:
    words come in sequences, and single deviations would count one sequence as many independent witnesses. Needs
    `prepare` and at least two chunks. The newest heats are used when `count` is no multiple of `size`. 0 when nothing
    deviates at all.
    """
    chunks = count // size
    blocks = size // BLOCK
    spreads = 0.0
    spreads_squared = 0.0
    squares = 0.0
    for chunk in range(chunks):
        first = count - (chunks - chunk) * size
        mean = (scratch[_SUMS + first + size] - scratch[_SUMS + first]) / size
        spread = 0.0
        for block in range(blocks):
            at = first + block * BLOCK
            deviation = distance(scratch, at, at + BLOCK, mean) / BLOCK
            spread += deviation
            squares += deviation * deviation
        spread = spread / blocks
        spreads += spread
        spreads_squared += spread * spread
    between = blocks * (spreads_squared - spreads * spreads / chunks)
    within = squares - blocks * spreads_squared
    # Rounding leaves something where there is nothing; a share of 1e-12 is no spread.
    if between <= 1e-12 * squares or within <= 1e-12 * squares:
        return 0.0
    return chunks * (blocks - 1.0) / (chunks - 1.0) * between / within


@kernel
def width(scratch: Floats, count: int) -> int:
    """The smallest window (from 256 on, in steps of 64) whose chunks do not differ in spread; all there is if none.

    Needs `prepare`. At least 256.
    """
    size = WINDOW_MIN
    while count // size >= 3:
        if levene(scratch, count, size) <= F_CRITICAL[count // size - 3]:
            return size
        size += BLOCK
    return max(count, WINDOW_MIN)


@kernel
def cooling(
    ring: Integers,
    times_us: Integers,
    heats: Integers,
    seen: Integers,
    mark: int,
    executed: int,
    count: int,
    now_us: int,
) -> float:
    """How fast heat falls with the time since a word was executed, in 1/us; 0 when that is not certain.

    The regression of ln(heat) on that time over the different words among the last `count`, each at its last execution,
    with the heat that it had then: the heat that is left by now would tell the decay about itself. `seen` remembers
    which words had their turn, by `mark`.
    """
    n = 0
    sum_x = sum_y = sum_xx = sum_xy = sum_yy = 0.0
    for back in range(1, count + 1):
        at = (executed - back) & (RING - 1)
        word = ring[at]
        if seen[word] != mark:
            seen[word] = mark
            if heats[at] > 0:
                # Milliseconds and heats in executions keep the sums near 1.
                x = (now_us - times_us[at]) * 0.001
                y = ln_heat(heats[at]) - 16.0 * _LN2
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
    # Rounding leaves something where there is nothing.
    if xx <= 1e-9 * sum_xx or yy <= 1e-9 * sum_yy:
        return 0.0
    explained = xy * xy / xx
    if explained * (n - 2) <= SLOPE_F * (yy - explained):
        return 0.0
    return abs(xy / xx) * 0.001


@kernel
def next_slope(slope: int, rate_per_us: float, lowest: int, highest: int) -> int:
    """The slope after an inference: a quarter of the way to that which cools a hot word at `rate_per_us`.

    Never more than a factor of 2 away, never by less than 1 while it is off by 1; as it is for a rate of 0; and within
    lowest..highest always.
    """
    if rate_per_us > 0.0:
        wanted = min(max(rate_per_us * KNEE, 0.5 * slope), 2.0 * slope)
        if wanted >= slope:
            slope += int((wanted - slope + 3.0) * 0.25)
        else:
            slope -= int((slope - wanted + 3.0) * 0.25)
    return min(max(slope, lowest), highest)


@kernel
def infer(
    parameters: Integers,
    state: Integers,
    cells: Integers,
    place: Integers,
    ring: Integers,
    times_us: Integers,
    heats: Integers,
    seen: Integers,
    scratch: Floats,
    now_us: int,
    cooled_by: int,
    width_on: bool,
    slope_on: bool,
) -> None:
    """One inference at the microsecond `now_us`; needs at least two executed words.

    Heats are cooled by the slope `cooled_by` (0 while decay is off). The window's variance decides whether there is
    anything new. Width and slope are then chosen from everything that is remembered: the width, so that it can grow
    again; the slope, because within a short window all words are young.
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
        rate = cooling(ring, times_us, heats, seen, mark, executed, count, now_us)
        state[S_SLOPE] = next_slope(state[S_SLOPE], rate, parameters[P_SLOPE_MIN], parameters[P_SLOPE_MAX])
