"""The inference of the reference law: variance of heats, early exit, window width (L5) and decay slope (L6).

Words are those of `twin.heart.q48`. Heats are plain integers, 0..2^63-1.
"""

from __future__ import annotations

import numpy as np

from twin.heart.q48 import LARGEST, add, distance, div, from_whole, less, ln, mul, whole
from twin.heart.reference_steps import NARROWEST_WINDOW, RING
from twin.kernels import Integers, kernel

STEADY_Q16 = 3_276
"""A variance that changed by at most this share (5 %) counts as steady."""
CRITICAL_Q16 = 425_984
"""6.5: equal variances are rejected above it, at 5 %."""
SIZE_STEP = 64
FEWEST_CHUNKS = 3
MOST_CHUNKS = RING // NARROWEST_WINDOW

_LOW48 = 0xFFFFFFFFFFFF
_SMALL_SUM = 1 << 31
_SMALL_HEAT = 1 << 50

BLOCKS = RING // SIZE_STEP + 1
SCRATCH = RING + BLOCKS + 3 * MOST_CHUNKS
"""Cells that `infer_width` works in: heats, sums of the heats before each block of 64, and three rows of chunks."""


def scratch() -> Integers:
    """Room for one inference at a time."""
    return np.zeros(SCRATCH, dtype=np.int64)


@kernel
def words_variance(words: Integers) -> int:
    """V of unsigned words, 1..4096 of them, in every case: sums wrap, quotients saturate at 2^64-1."""
    count = from_whole(len(words))
    total = 0
    for word in words:
        total = add(total, word)
    mean = div(from_whole(total), count)
    # At most 4096 parts below 2^48: below 2^60.
    squares = 0
    for word in words:
        d = distance(from_whole(word), mean)
        squares += whole(mul(d, d))
    return div(from_whole(squares), count)


@kernel
def summed_variance(heats: Integers, total: int) -> int:
    """V of heats whose sum, `total`, is known and below 2^31: `words_variance` without its wraps and saturations.

    The mean is (total << 16) / n; both it and every heat << 16 are below 2^47, and so is d.
    """
    mean = (total << 16) // len(heats)
    squares = 0
    for heat in heats:
        d = abs((heat << 16) - mean)
        # d * d >> 32 with d = x * 2^16 + y: x < 2^31, so x * x < 2^62 and x * y < 2^47. Upper bits are lost, as in mul.
        x = d >> 16
        y = d & 0xFFFF
        squares += (x * x + ((2 * x * y + ((y * y) >> 16)) >> 16)) & _LOW48
    return saturating_share(squares, len(heats))


@kernel
def saturating_share(squares: int, count: int) -> int:
    """div(squares << 16, count << 16) for squares 0..2^60, of which 48 bits count; `LARGEST` from 2^32 on."""
    kept = squares & _LOW48
    if kept >= 1 << 32:
        return LARGEST
    return (kept << 16) // count


@kernel
def variance(heats: Integers) -> int:
    """V of 1..4096 heats: a word in Q48.16, below 2^48 or saturated at 2^64-1."""
    total = 0
    for heat in heats:
        # Below 2^31 + 2^50 before the check.
        if heat >= _SMALL_HEAT:
            return words_variance(heats)
        total += heat
        if total >= _SMALL_SUM:
            return words_variance(heats)
    return summed_variance(heats, total)


@kernel
def is_steady(variance_now: int, variance_before: int) -> bool:
    """Whether the variance (a word) has changed so little that inference ends early; never after a variance of 0."""
    if variance_before == 0:
        return False
    share = div(distance(variance_now, variance_before), variance_before)
    return 0 <= share <= STEADY_Q16


@kernel
def levene(variances: Integers, size: int, deviations: Integers, ordered: Integers) -> int:
    """W_L, a word in Q48.16, of the variances (words) of K chunks of `size`; two rows of K words are worked in.

    The median is the upper of two, and the mean deviation its integer part, as recorded.
    """
    k = len(variances)
    for i in range(k):
        value = variances[i]
        at = i
        while at > 0 and less(value, ordered[at - 1]):
            ordered[at] = ordered[at - 1]
            at -= 1
        ordered[at] = value
    median = ordered[k // 2]
    # At most 16 integer parts below 2^48: below 2^52.
    wholes = 0
    for i in range(k):
        deviations[i] = distance(variances[i], median)
        wholes += whole(deviations[i])
    mean = from_whole(wholes // k)
    squares = 0
    for i in range(k):
        d = distance(deviations[i], mean)
        squares = add(squares, mul(d, d))
    numerator = mul(from_whole(k - 1), mul(from_whole(size), squares))
    return div(numerator, mul(from_whole(k), words_variance(deviations)))


@kernel
def infer_width(heats: Integers, room: Integers) -> int:
    """L5: the smallest window whose chunks have equal variances, else all heats (2..4096); `room` is scratch."""
    n = len(heats)
    sums = room[RING : RING + BLOCKS]
    small = True
    for heat in heats:
        if heat >= _SMALL_HEAT:
            small = False
    if small:
        # Every size is a multiple of 64, so that sums before each block give a chunk's sum at once. 4096 * 2^50 = 2^62.
        total = 0
        for block in range(n // SIZE_STEP):
            sums[block] = total
            for i in range(block * SIZE_STEP, (block + 1) * SIZE_STEP):
                total += heats[i]
        sums[n // SIZE_STEP] = total
    size = NARROWEST_WINDOW
    while n // size >= FEWEST_CHUNKS:
        k = n // size
        rows = room[RING + BLOCKS :]
        for j in range(k):
            chunk = heats[j * size : (j + 1) * size]
            if small:
                first = j * size // SIZE_STEP
                total = sums[first + size // SIZE_STEP] - sums[first]
                rows[j] = summed_variance(chunk, total) if total < _SMALL_SUM else words_variance(chunk)
            else:
                rows[j] = words_variance(chunk)
        statistic = levene(
            rows[:k], size, rows[MOST_CHUNKS : MOST_CHUNKS + k], rows[2 * MOST_CHUNKS : 2 * MOST_CHUNKS + k]
        )
        if 0 <= statistic <= CRITICAL_Q16:
            return size
        size += SIZE_STEP
    return n


@kernel
def infer_slope(heats: Integers, known: Integers) -> int:
    """L6: the decay slope, 0..2^22 in Q48.16, that a line through the logarithms of the heats above 0 has.

    `heats` are 2..4096; `known` keeps logarithms. The time of a heat is its place.
    """
    n = len(heats)
    total = 0
    weighted = 0
    for t in range(n):
        if heats[t] > 0:
            logarithm = ln(heats[t], known)
            # Logarithms are within 2^22: the sums are within 2^34 and 2^45, and times n within 2^57.
            total += logarithm
            weighted += t * logarithm
    times = n * (n - 1) // 2
    squared_times = n * (n - 1) * (2 * n - 1) // 6
    return abs(n * weighted - times * total) // (n * squared_times - times * times)
