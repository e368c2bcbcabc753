"""Sums over series in a fixed order, and what every estimator has in common.

Long sums are taken in interleaved parts that do not wait for each other. The parts and their order are written down, so
the bits are the same compiled and interpreted.
"""

from __future__ import annotations

from typing import TypeVar

from twin.kernels import Floats, Integers, kernel

Value = TypeVar("Value")

DIGITS = 9
"""Significant digits of a number that leaves."""
LANES = 32
"""Parts that a sum of products has."""


class NotKnown(ValueError):  # noqa: N818 - it is an answer, not a mistake
    """An estimator cannot tell; the message says why."""


def rounded(value: Value) -> Value:
    """`value` with every float in it, in lists too, rounded to nine significant digits; no float becomes -0."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") + 0.0  # type: ignore[return-value]
    if isinstance(value, list):
        return [rounded(each) for each in value]  # type: ignore[return-value]
    return value


@kernel
def total(x: Floats) -> float:
    """The sum of a series."""
    a = b = c = d = e = f = g = h = 0.0
    count = len(x)
    whole = count - count % 8
    for i in range(0, whole, 8):
        a += x[i]
        b += x[i + 1]
        c += x[i + 2]
        d += x[i + 3]
        e += x[i + 4]
        f += x[i + 5]
        g += x[i + 6]
        h += x[i + 7]
    for i in range(whole, count):
        a += x[i]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@kernel
def dot(x: Floats, y: Floats, count: int, lanes: Floats) -> float:
    """The sum of products of the first `count` values of two series. `lanes` is for scratch, shape (LANES,)."""
    for lane in range(LANES):
        lanes[lane] = 0.0
    row = 4 * LANES
    whole = count - count % row
    for begin in range(0, whole, row):
        for lane in range(LANES):
            a, b, c, d = begin + lane, begin + LANES + lane, begin + 2 * LANES + lane, begin + 3 * LANES + lane
            lanes[lane] += (x[a] * y[a] + x[b] * y[b]) + (x[c] * y[c] + x[d] * y[d])
    found = 0.0
    for i in range(whole, count):
        found += x[i] * y[i]
    for lane in range(LANES):
        found += lanes[lane]
    return found


@kernel
def centre(x: Floats) -> None:
    """Take the mean off a series (at least one value), in place."""
    first = x[0]
    for i in range(len(x)):
        x[i] -= first
    mean = total(x) / len(x)
    for i in range(len(x)):
        x[i] -= mean


@kernel
def mean_of(x: Integers) -> float:
    """The mean of at least one integer; of equal ones exactly that."""
    first = x[0]
    away = 0.0
    for i in range(len(x)):
        away += float(x[i] - first)
    return float(first) + away / len(x)


@kernel
def mean_distance(x: Integers, y: Integers) -> float:
    """The mean of |x - y| of at least one pair."""
    away = 0.0
    for i in range(len(x)):
        away += float(abs(x[i] - y[i]))
    return away / len(x)


@kernel
def lagged_products(x: Floats, y: Floats, lags: int, out: Floats) -> None:
    """Into `out[lag]` the sum over t of x[t] * y[t + lag], for lags from 0 to `lags` (below the series' length).

    All lags side by side: no sum waits for another one.
    """
    for lag in range(lags + 1):
        out[lag] = 0.0
    # As long as every lag has a value of y.
    whole = (len(x) - lags) - (len(x) - lags) % 4
    for t in range(0, whole, 4):
        a, b, c, d = x[t], x[t + 1], x[t + 2], x[t + 3]
        for lag in range(lags + 1):
            out[lag] += (a * y[t + lag] + b * y[t + 1 + lag]) + (c * y[t + 2 + lag] + d * y[t + 3 + lag])
    for t in range(whole, len(x)):
        for lag in range(min(lags + 1, len(x) - t)):
            out[lag] += x[t] * y[t + lag]


@kernel
def varies(x: Floats | Integers) -> bool:
    """Whether a series (at least one value) has two different values."""
    i = 1
    while i < len(x) and x[i] == x[0]:
        i += 1
    return i < len(x)
