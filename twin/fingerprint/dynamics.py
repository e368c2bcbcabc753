"""How fast a steady state forgets what disturbs it: the slowest mode of a vector autoregression of the first order.

x[t + 1] = a + A x[t] + noise, fitted by least squares with the constant: A = C1 C0^-1, with the covariances C0 of x[t]
and C1 of x[t + 1] with x[t]. H. Lütkepohl, "New introduction to multiple time series analysis", section 3.2.1.

Series that follow from others are left out: pivots of Cholesky's factorisation say which (N. J. Higham, "Accuracy and
stability of numerical algorithms", section 10.3). The spectral radius comes from repeated squaring: the n-th root of
the norm of A^n tends to it (Gelfand).
"""

from __future__ import annotations

import numpy as np

from twin.fingerprint.moments import cross_products, varying
from twin.fingerprint.series import NotKnown, mean_of
from twin.kernels import Floats, Integers, kernel, log

PIVOT = 1e-9
"""A series of which the ones before leave less than this share of its variance follows from them."""
SQUARINGS = 40
"""Squarings of A; the norm of A^(2^40) to the power 2^-40 is the radius up to some 10^-11."""


@kernel
def independent(correlation: Floats, order: Integers) -> int:
    """How many series do not follow from others; their numbers come first in `order`, the largest pivots first.

    Of equal pivots the smaller number comes first. `correlation` (k, k) has ones on its diagonal and is used up.
    """
    size = len(correlation)
    for i in range(size):
        order[i] = i
    for count in range(size):
        best = count
        for i in range(count + 1, size):
            if correlation[order[i], order[i]] > correlation[order[best], order[best]]:
                best = i
        # Moved up and not swapped, so that those left stay in order.
        chosen = order[best]
        for i in range(best, count, -1):
            order[i] = order[i - 1]
        order[count] = chosen
        pivot = correlation[chosen, chosen]
        if pivot < PIVOT:
            return count
        for i in range(count + 1, size):
            for j in range(count + 1, size):
                a, b = order[i], order[j]
                if j >= i:
                    correlation[a, b] -= correlation[a, chosen] * correlation[b, chosen] / pivot
        for i in range(count + 1, size):
            for j in range(i + 1, size):
                correlation[order[j], order[i]] = correlation[order[i], order[j]]
    return size


@kernel
def divide_right(top: Floats, bottom: Floats) -> None:
    """`top` becomes top * bottom^-1, by elimination without pivoting; `bottom` is positive definite and is used up."""
    size = len(bottom)
    # X bottom = top, columns of `top` standing for those of X: eliminate columns, then go back.
    for k in range(size):
        for j in range(k + 1, size):
            factor = bottom[k, j] / bottom[k, k]
            for i in range(size):
                bottom[i, j] -= factor * bottom[i, k]
                top[i, j] -= factor * top[i, k]
    for k in range(size - 1, -1, -1):
        for i in range(size):
            value = top[i, k]
            for m in range(k + 1, size):
                value -= top[i, m] * bottom[m, k]
            top[i, k] = value / bottom[k, k]


@kernel
def log_spectral_radius(matrix: Floats, squarings: int) -> float:
    """The natural logarithm of the largest size of an eigenvalue; -745 when all of them are 0. Uses `matrix` up."""
    size = len(matrix)
    squared = np.zeros((size, size))
    found = 0.0
    share = 1.0
    for number in range(squarings + 1):
        largest = 0.0
        for i in range(size):
            for j in range(size):
                largest = max(largest, abs(matrix[i, j]))
        if largest == 0.0:
            return -745.0
        found += share * log(largest)
        share = share / 2.0
        for i in range(size):
            for j in range(size):
                matrix[i, j] = matrix[i, j] / largest
        if number == squarings:
            break
        for i in range(size):
            for j in range(size):
                value = 0.0
                for k in range(size):
                    value += matrix[i, k] * matrix[k, j]
                squared[i, j] = value
        for i in range(size):
            for j in range(size):
                matrix[i, j] = squared[i, j]
    return found


def autoregression(columns: tuple[Integers, ...], start: int) -> tuple[Floats, list[int]]:
    """The matrix A of the series from tick `start` on, standardised, and the numbers of the series that are in it.

    Raises `NotKnown` when none of them varies.
    """
    size = len(columns)
    stop = len(columns[0])
    steady = [column[start:] for column in columns]
    there = varying([column[:-1] for column in steady])
    if not there:
        raise NotKnown("none of the metrics varies in the steady state")
    means = np.array([mean_of(column) for column in steady])
    now, after = np.zeros((size, size + 1)), np.zeros((size, size + 1))
    cross_products(columns, start, stop - 1, 0, means, now, after)
    count = stop - 1 - start

    def covariance(products: Floats, i: int, j: int) -> float:
        return float(products[i, j] - products[i, size] * now[j, size] / count)

    deviations = {i: float(np.sqrt(covariance(now, i, i))) for i in there}
    correlation = np.array([[covariance(now, i, j) / deviations[i] / deviations[j] for j in there] for i in there])
    order = np.zeros(len(there), dtype=np.int64)
    kept = int(independent(correlation.copy(), order))
    chosen = sorted(order[:kept].tolist())
    bottom = correlation[chosen][:, chosen].copy()
    names = [there[each] for each in chosen]
    top = np.array([[covariance(after, i, j) / deviations[i] / deviations[j] for j in names] for i in names])
    divide_right(top, bottom)
    return top, names


def decay_rate_hz(columns: tuple[Integers, ...], start: int, step_seconds: float) -> float:
    """Minus the logarithm of the largest eigenvalue's size, over the mean step: by what part of it the slowest mode
    fades in a second. Below 0 when it grows. Raises `NotKnown`.
    """
    if step_seconds <= 0.0:
        raise NotKnown("no time passes in the steady state")
    matrix, _ = autoregression(columns, start)
    logarithm = float(log_spectral_radius(matrix, SQUARINGS))
    if logarithm <= -745.0:
        raise NotKnown("every mode is gone within a tick")
    return -logarithm / step_seconds
