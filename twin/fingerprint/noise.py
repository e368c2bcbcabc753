"""Is a series white, is it normal? Two tests, each with the probability of such a series by chance.

Both follow from chi-square with an even number of degrees of freedom, whose tail has a closed form:
exp(-x/2) * sum of (x/2)^k / k! for k below half the degrees.
"""

from __future__ import annotations

import numpy as np

from twin.fingerprint.series import NotKnown, centre, lagged_products, varies
from twin.kernels import Floats, exp, kernel

LAGS = 20
"""Lags of the Ljung-Box test."""
SIGNIFICANT = 0.01
"""Below this probability a series is called not white, or not normal."""


@kernel
def chi_square_tail(value: float, degrees: int) -> float:
    """The probability that chi-square with an even number of degrees of freedom is above `value` (0 or more)."""
    half = value / 2.0
    if half > 745.0:
        return 0.0
    term = exp(-half)
    found = 0.0
    for k in range(degrees // 2):
        found += term
        term = term * half / (k + 1)
    return min(1.0, found)


@kernel
def ljung_box(x: Floats, lags: int) -> float:
    """The statistic of Ljung and Box, "On a measure of lack of fit in time series models", Biometrika 65, 1978.

    n (n + 2) times the sum over lags k of r_k^2 / (n - k), for a series with mean 0 and more than `lags` values.
    """
    products = np.zeros(lags + 1)
    lagged_products(x, x, lags, products)
    count = float(len(x))
    found = 0.0
    for lag in range(1, lags + 1):
        r = products[lag] / products[0]
        found += r * r / (count - lag)
    return count * (count + 2.0) * found


@kernel
def jarque_bera(x: Floats) -> float:
    """The statistic of Jarque and Bera, "A test for normality of observations and regression residuals", 1987.

    n / 6 times (skewness^2 + (kurtosis - 3)^2 / 4), for a series with mean 0.
    """
    squares, cubes, fourths = 0.0, 0.0, 0.0
    for i in range(len(x)):
        square = x[i] * x[i]
        squares += square
        cubes += square * x[i]
        fourths += square * square
    count = len(x)
    variance = squares / count
    skewness = cubes / count / (variance * np.sqrt(variance))
    kurtosis = fourths / count / (variance * variance)
    return float(count / 6.0 * (skewness * skewness + (kurtosis - 3.0) * (kurtosis - 3.0) / 4.0))


def white_and_normal(x: Floats, name: str) -> tuple[float, float]:
    """The probabilities, from 0 to 1, that a white and that a normal series has statistics as large as this one's.

    Takes the mean off the series, in place. Raises `NotKnown`, which calls it by its name, when it does not vary or has
    no more than twice `LAGS` values.
    """
    if len(x) <= 2 * LAGS:
        raise NotKnown(f"there are {len(x)} ticks; more than {2 * LAGS} are needed")
    if not varies(x):
        raise NotKnown(f"{name} does not vary")
    centre(x)
    return float(chi_square_tail(ljung_box(x, LAGS), LAGS)), float(chi_square_tail(jarque_bera(x), 2))
