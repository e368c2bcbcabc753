"""How well the data tell each parameter: intervals that know that errors in a row are alike, and what stays unknown."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from twin.calibrate.errors import independent_samples
from twin.calibrate.solve import Problem, Solution
from twin.kernels import Floats

TWO_SIDED_95 = 1.96
UNKNOWN_SHARE = 0.7
"""A parameter whose doubt is still this share of what was expected beforehand was not told by the data."""
WIDE_LOG = 0.35
"""A logarithm in doubt by more than this (one standard deviation) is known no better than within a factor of two."""
TOGETHER = 0.98
"""Two parameters whose errors correlate more are told by the data only together."""


@dataclass(frozen=True)
class Doubt:
    """The 95 % interval of a parameter as people have it, and why it is unknown (empty when it is known)."""

    low: float
    high: float
    unknown: str


@dataclass(frozen=True)
class Doubts:
    """The doubts of all parameters in order, and pairs of their places that the data tell only together."""

    each: tuple[Doubt, ...]
    together: tuple[tuple[int, int], ...]


def intervals(problem: Problem, solution: Solution) -> Doubts:
    """Intervals from the curvature at the solution, widened by how alike successive errors are.

    The covariance is H^-1 M H^-1, H the curvature with the expectations in it and M the covariance of the slope. M is
    that of independent errors of the size seen, times the inflation of the errors' own autocorrelation, or, for each
    parameter, that of its own contributions to the slope, whichever is more (White 1980 and Newey and West 1987 give
    the sandwich; the larger of both is taken because short recordings make either too small).
    """
    count = len(solution.point)
    residuals = problem.residuals(solution.point, solution.trust)
    slopes = problem.derivatives(solution.point, solution.trust)
    weights = 1.0 / np.sqrt(1.0 + (residuals / solution.scale) ** 2)
    weights[-count:] = 1.0
    data = slopes[:-count]
    # The soft loss has slope w r and curvature w^3.
    curvature = slopes.T @ (weights[:, None] ** 3 * slopes)
    pull = (weights * residuals)[:-count]
    bounds = np.concatenate([[0], np.cumsum([np.count_nonzero(used) for used in problem.used])]).astype(int)
    prior = slopes[-count:]
    meat = prior.T @ prior
    for begin, end in pairwise(bounds.tolist()):
        part, rows = pull[begin:end], data[begin:end]
        variance = float(np.mean(part * part)) * (end - begin) / max(1, end - begin - count)
        plain = rows.T @ rows * variance * _inflation(residuals[begin:end])
        own = np.zeros(count)
        for i in range(count):
            steps = rows[:, i] * part
            own[i] = float(np.sum(steps * steps)) * _inflation(steps)
        wider = np.maximum(1.0, np.sqrt(own / np.maximum(np.diag(plain), 1e-300)))
        meat += plain * np.outer(wider, wider)
    inverse = np.linalg.inv(curvature)
    covariance = inverse @ meat @ inverse
    deviations = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    each = tuple(_doubt(problem, place, solution.point, deviations) for place in range(count))
    correlation = covariance / np.outer(np.maximum(deviations, 1e-300), np.maximum(deviations, 1e-300))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count) if abs(correlation[i, j]) > TOGETHER]
    return Doubts(each, tuple(pairs))


def _inflation(errors: Floats) -> float:
    """How many of these successive errors tell as much as one that is independent."""
    return len(errors) / independent_samples(errors)


def _doubt(problem: Problem, place: int, point: Floats, deviations: Floats) -> Doubt:
    parameter, deviation, value = problem.parameters[place], float(deviations[place]), float(point[place])
    low = max(parameter.low, value - TWO_SIDED_95 * deviation)
    high = min(parameter.high, value + TWO_SIDED_95 * deviation)
    unknown = ""
    if value <= parameter.low + 1e-9 or value >= parameter.high - 1e-9:
        unknown = f"at its bound, {parameter.told(value):.4g} {parameter.unit}".rstrip()
    elif deviation > UNKNOWN_SHARE * parameter.spread:
        unknown = "the recording does not tell it; it stays where it was expected"
    elif parameter.log and deviation > WIDE_LOG:
        unknown = "known no better than within a factor of two"
    elif parameter.name == "sensor_lag":
        unknown = "told only as its sum with node1_seconds, less the lead"
    return Doubt(parameter.told(low), parameter.told(high), unknown)
