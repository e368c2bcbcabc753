"""How strongly one series follows another, some ticks later."""

from __future__ import annotations

import numpy as np

from twin.fingerprint.series import NotKnown, centre, lagged_products, total, varies
from twin.kernels import Floats, Integers, kernel

LAGS = 50
"""The largest lag, ticks."""
TINY = 1e-9
"""An overlap with less than this share of a series' squares around its own mean is what rounding left of nothing."""


@kernel
def carry(values: Floats, out: Floats) -> None:
    """Copy a series to `out`; a tick without a value (negative) has the one before, the first ones the first there is.

    At least one tick has a value.
    """
    last = -1.0
    for t in range(len(values)):
        if values[t] >= 0.0:
            last = values[t]
            break
    for t in range(len(values)):
        if values[t] >= 0.0:
            last = values[t]
        out[t] = last


@kernel
def strongest(x: Floats, y: Floats, lags: int, out: Floats) -> None:
    """Into `out` Pearson's r between x[t] and y[t + lag] at the lag from 0 to `lags` where it is largest in size.

    And that lag; of equal ones the smaller. Means and deviations are those of the pairs. Both series have a mean near
    0 and more than `lags` values. The lag is -1 when in every overlap one of them does not vary.
    """
    count = len(x)
    products = np.zeros(lags + 1)
    lagged_products(x, y, lags, products)
    # The overlap of the largest lag; the others have a few values more, so that nothing is taken off a sum.
    core = count - lags
    x_sum, y_sum = total(x[:core]), total(y[lags:])
    x_squares, y_squares = 0.0, 0.0
    for t in range(core):
        x_squares += x[t] * x[t]
        y_squares += y[lags + t] * y[lags + t]
    out[0] = 0.0
    out[1] = -1.0
    for lag in range(lags, -1, -1):
        pairs = count - lag
        if lag < lags:
            x_sum += x[pairs - 1]
            x_squares += x[pairs - 1] * x[pairs - 1]
            y_sum += y[lag]
            y_squares += y[lag] * y[lag]
        x_spread = x_squares - x_sum * x_sum / pairs
        y_spread = y_squares - y_sum * y_sum / pairs
        if x_spread > TINY * x_squares and y_spread > TINY * y_squares:
            r = (products[lag] - x_sum * y_sum / pairs) / (np.sqrt(x_spread) * np.sqrt(y_spread))
            r = min(1.0, max(-1.0, r))
            if abs(r) >= abs(out[0]) or out[1] < 0.0:
                out[0] = r
                out[1] = float(lag)


def lagged_correlation(x: Floats, y: Floats, name_x: str, name_y: str, lags: int = LAGS) -> tuple[float, int]:
    """Pearson's r between x and y `lag` ticks later, where it is largest in size among lags from 0 to `lags`; that lag.

    r is from -1 to 1. Raises `NotKnown`, which calls the series by their names, when one of them does not vary or they
    have no more than twice `lags` values. Takes their means off both, in place.
    """
    if len(x) <= 2 * lags:
        raise NotKnown(f"there are {len(x)} ticks; more than {2 * lags} are needed")
    for series, name in ((x, name_x), (y, name_y)):
        if not varies(series):
            raise NotKnown(f"{name} does not vary")
        centre(series)
    out = np.zeros(2)
    strongest(x, y, lags, out)
    if out[1] < 0.0:
        raise NotKnown(f"{name_x} or {name_y} does not vary but at the ends of the run")
    return float(out[0]), int(out[1])


def known_from(load_ppm: Integers, unknown: int) -> int:
    """The first tick from which on the load is known. Raises `NotKnown` when it is unknown later, or throughout."""
    there = load_ppm != unknown
    first = int(np.argmax(there)) if len(there) else 0
    if not np.all(there[first:]) or not len(there):
        missing = int(np.count_nonzero(~there))
        raise NotKnown(f"the load is not known in {missing:,} of {len(there):,} ticks")
    return first
