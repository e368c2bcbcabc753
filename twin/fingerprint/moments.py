"""How several series of integers vary together: correlations, of levels and of differences, and their largest mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twin.fingerprint.series import LANES, NotKnown, dot, mean_of, total, varies
from twin.kernels import Floats, Integers, kernel

CHUNK = 2_048
"""Ticks that are looked at together, so that they stay in the cache."""
SWEEPS = 60
"""More sweeps than Jacobi's method ever needs: it doubles its digits in each of the last ones."""


@kernel
def _fill(x: Integers, start: int, count: int, mean: float, step: int, out: Floats) -> None:
    """Into `out` the next `count` values of x, or with `step` 1 their differences to the ones before, less the mean."""
    if step == 0:
        for i in range(count):
            out[i] = float(x[start + i]) - mean
    else:
        for i in range(count):
            out[i] = float(x[start + i + 1] - x[start + i]) - mean


@kernel
def cross_products(
    columns: tuple[Integers, ...], start: int, stop: int, step: int, means: Floats, now: Floats, after: Floats
) -> None:
    """Sums over start <= t < stop of products of the series, less their means.

    With k series `now` has k rows and k + 1 columns: the products of series i and j at t, then the sums of series i.
    `after` has the same of series i at t + 1 and series j at t; with shape (0, 0) it is left out. With `step` 1 the
    series are the differences x[t + 1] - x[t], with `step` 0 the values themselves.
    """
    size = len(columns)
    more = 1 if len(after) > 0 else 0
    values = np.zeros((size, CHUNK + 1))
    lanes = np.zeros(LANES)
    for i in range(size):
        for j in range(size + 1):
            now[i, j] = 0.0
            if more:
                after[i, j] = 0.0
    for begin in range(start, stop, CHUNK):
        count = min(CHUNK, stop - begin)
        for i in range(size):
            _fill(columns[i], begin, count + more, means[i], step, values[i])
            summed = total(values[i, :count])
            now[i, size] += summed
            if more:
                after[i, size] += summed + (values[i, count] - values[i, 0])
        for i in range(size):
            for j in range(i + 1):
                now[i, j] += dot(values[i], values[j], count, lanes)
            if more:
                for j in range(size):
                    after[i, j] += dot(values[i, 1:], values[j], count, lanes)
    for i in range(size):
        for j in range(i + 1, size):
            now[i, j] = now[j, i]


@kernel
def largest_eigenvalue(matrix: Floats) -> float:
    """The largest eigenvalue of a symmetric matrix, which is used up. Jacobi's method, row by row.

    G. H. Golub and C. F. Van Loan, "Matrix computations", section 8.5.
    """
    size = len(matrix)
    for _ in range(SWEEPS):
        turned = False
        for p in range(size):
            for q in range(p + 1, size):
                across = matrix[p, q]
                if abs(across) <= 1e-17 * (abs(matrix[p, p]) + abs(matrix[q, q])):
                    continue
                turned = True
                slope = (matrix[q, q] - matrix[p, p]) / (2.0 * across)
                tangent = 1.0 / (abs(slope) + np.sqrt(1.0 + slope * slope))
                if slope < 0.0:
                    tangent = -tangent
                cosine = 1.0 / np.sqrt(1.0 + tangent * tangent)
                sine = tangent * cosine
                matrix[p, p] -= tangent * across
                matrix[q, q] += tangent * across
                matrix[p, q] = 0.0
                matrix[q, p] = 0.0
                for i in range(size):
                    if i not in (p, q):
                        one, other = matrix[i, p], matrix[i, q]
                        matrix[i, p] = cosine * one - sine * other
                        matrix[p, i] = matrix[i, p]
                        matrix[i, q] = sine * one + cosine * other
                        matrix[q, i] = matrix[i, q]
        if not turned:
            break
    largest = matrix[0, 0]
    for i in range(1, size):
        largest = max(largest, matrix[i, i])
    return float(largest)


def varying(columns: Sequence[Integers]) -> list[int]:
    """The numbers of the series (each with at least one value) that have two different values."""
    return [number for number, column in enumerate(columns) if varies(column)]


def correlations(columns: tuple[Integers, ...]) -> tuple[Floats, list[int]]:
    """Pearson's r of each series with each, and the numbers of those that vary; entries of others mean nothing.

    Shape (k, k), from -1 to 1, exactly 1 on the diagonal. At least one value a series, none negative or above 2^62.
    """
    there = varying(columns)
    means = np.array([mean_of(column) for column in columns])
    return _correlations(columns, there, len(columns[0]), 0, means), there


def difference_correlations(columns: tuple[Integers, ...]) -> tuple[Floats, list[int]]:
    """The same of the differences between neighbours; at least two values a series."""
    there = [number for number, column in enumerate(columns) if _bends(column)]
    count = len(columns[0]) - 1
    means = np.array([float(int(column[-1]) - int(column[0])) / count for column in columns])
    return _correlations(columns, there, count, 1, means), there


@kernel
def _bends(x: Integers) -> bool:
    """Whether two differences between neighbours are different."""
    first = x[1] - x[0]
    t = 1
    while t < len(x) - 1 and x[t + 1] - x[t] == first:
        t += 1
    return t < len(x) - 1


def _correlations(columns: tuple[Integers, ...], there: list[int], count: int, step: int, means: Floats) -> Floats:
    size = len(columns)
    products = np.zeros((size, size + 1))
    cross_products(columns, 0, count, step, means, products, np.zeros((0, 0)))
    found = np.zeros((size, size))
    rows = products.tolist()
    for i in there:
        found[i, i] = 1.0
        for j in (each for each in there if each < i):
            both, one, other = (rows[a][b] - rows[a][size] * rows[b][size] / count for a, b in ((i, j), (i, i), (j, j)))
            r = both / float(np.sqrt(one) * np.sqrt(other))
            found[i, j] = found[j, i] = min(1.0, max(-1.0, r))
    return found


def dominant_eigenvalue(correlation: Floats, there: list[int]) -> float:
    """The largest eigenvalue of the correlations of the series `there`: from 1 (none shared) to their number (all one).

    Raises `NotKnown` when there are fewer than two.
    """
    if len(there) < 2:
        raise NotKnown("fewer than two of the metrics vary")
    return float(largest_eigenvalue(correlation[there][:, there]))


def mean_off_diagonal(correlation: Floats, there: list[int]) -> float:
    """The mean size of the correlations between different ones of the series `there`, from 0 to 1.

    Raises `NotKnown` when there are fewer than two.
    """
    if len(there) < 2:
        raise NotKnown("the differences of fewer than two of the metrics vary")
    sizes = [abs(float(correlation[i, j])) for i in there for j in there if j < i]
    return sum(sizes) / len(sizes)
