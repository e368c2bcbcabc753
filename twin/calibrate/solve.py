"""Least squares over recordings: residuals, their derivatives, and the search for the best parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twin.calibrate import forward
from twin.calibrate.parameters import Outline, Parameter, Shape, chain
from twin.calibrate.recording import Recording
from twin.kernels import Floats

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]
STEP = 1e-5
"""Step of a difference quotient, in standard deviations of what is expected."""
ENOUGH = 1e-6
"""A search ends when a step lowers the cost by less than this share."""
FAR_CELSIUS = 1e3
"""Residuals are cut here, so that a wild guess cannot leave the numbers."""


@dataclass(frozen=True)
class Problem:
    """Recordings as drives, what they showed, which readings count (`used`), and the parameters to find."""

    shape: Shape
    look: Outline
    drives: Sequence[forward.Drive]
    celsius: Sequence[Floats]
    used: Sequence[Flags]
    parameters: Sequence[Parameter]

    def values(self, point: Floats, recording: int) -> dict[str, float]:
        """The parameters that concern one recording, by name, as people have them."""
        return {
            p.name: p.told(x) for p, x in zip(self.parameters, point, strict=True) if p.recording in (-1, recording)
        }

    def shown(self, point: Floats, recording: int) -> Floats:
        """What the sensor would show at the samples of one recording (C)."""
        values = self.values(point, recording)
        made = chain(self.shape, values, self.look.full_watts, self.look.first_celsius[recording])
        shown = np.zeros(self.drives[recording].samples)
        run(self.shape.nodes, made.numbers, made.ambient, made.start, self.drives[recording], shown)
        return shown

    def errors(self, point: Floats, recording: int) -> Floats:
        """Model less reading, for the readings of one recording that count."""
        used = self.used[recording]
        apart = self.shown(point, recording)[used] - self.celsius[recording][used]
        return np.clip(np.nan_to_num(apart, nan=FAR_CELSIUS), -FAR_CELSIUS, FAR_CELSIUS)

    def residuals(self, point: Floats, trust: float) -> Floats:
        """Errors of all recordings, then the distances from what is expected, `trust` (K) a standard deviation."""
        parts = [self.errors(point, recording) for recording in range(len(self.drives))]
        parts.append(trust * (point - self.means) / self.spreads)
        return np.concatenate(parts)

    def derivatives(self, point: Floats, trust: float) -> Floats:
        """Derivatives of the residuals; a parameter of one recording costs a run of that recording alone."""
        counts = [int(np.count_nonzero(used)) for used in self.used]
        begin = np.concatenate([[0], np.cumsum(counts)])
        result = np.zeros((int(begin[-1]) + len(point), len(point)))
        base = [self.errors(point, recording) for recording in range(len(self.drives))]
        for column, parameter in enumerate(self.parameters):
            step = STEP * parameter.spread
            if point[column] + step > parameter.high:
                step = -step
            moved = point.copy()
            moved[column] += step
            for recording in range(len(self.drives)):
                if parameter.recording in (-1, recording):
                    rows = slice(int(begin[recording]), int(begin[recording + 1]))
                    result[rows, column] = (self.errors(moved, recording) - base[recording]) / step
            result[int(begin[-1]) + column, column] = trust / parameter.spread
        return result

    @property
    def means(self) -> Floats:
        """What is expected of each parameter."""
        return np.array([p.mean for p in self.parameters])

    @property
    def spreads(self) -> Floats:
        """How much each may differ from that (one standard deviation)."""
        return np.array([p.spread for p in self.parameters])


@dataclass(frozen=True)
class Solution:
    """Where the search ended: the point, its cost, and the settings of the loss (K) that it belongs to."""

    point: Floats
    cost: float
    trust: float
    scale: float


def run(nodes: int, numbers: Floats, ambient: float, start: Floats, drive: forward.Drive, shown: Floats) -> None:
    """`forward.run_chain` for a drive."""
    forward.run_chain(
        nodes, numbers, ambient, start, drive.kinds, drive.kind_of, drive.loads, drive.watts, drive.sample_of, shown
    )  # fmt: skip


def search(
    problem: Problem, start: Floats, trust: float, scale: float, most: int, enough: float = ENOUGH
) -> Solution:  # fmt: skip
    """The least cost from `start` in at most `most` steps, or until one lowers it by less than the share `enough`.

    The loss of an error r is soft: 2 (sqrt(1 + (r/scale)^2) - 1) scale^2, quadratic up to `scale` and linear beyond, so
    that outliers have a bounded pull. The search is that of Levenberg and Marquardt on the normal equations, which are
    small, with parameters at a bound left out while they push outwards.
    """
    low = np.array([p.low for p in problem.parameters])
    high = np.array([p.high for p in problem.parameters])
    point = np.clip(start, low, high)
    residuals = problem.residuals(point, trust)
    cost = _cost(residuals, len(point), scale)
    damping = 1e-2
    for _ in range(most):
        slopes = problem.derivatives(point, trust)
        weights = _weights(residuals, len(point), scale)
        gradient = slopes.T @ (weights * residuals)
        curvature = slopes.T @ (weights[:, None] * slopes)
        free = ~(((point <= low) & (gradient > 0.0)) | ((point >= high) & (gradient < 0.0)))
        before, moved = cost, False
        while damping < 1e8 and np.any(free):
            step = np.zeros(len(point))
            matrix = curvature[np.ix_(free, free)]
            step[free] = np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), -gradient[free])
            tried = np.clip(point + step, low, high)
            tried_residuals = problem.residuals(tried, trust)
            tried_cost = _cost(tried_residuals, len(point), scale)
            if tried_cost < cost:
                point, residuals, cost, moved = tried, tried_residuals, tried_cost, True
                damping = max(damping / 5.0, 1e-9)
                break
            damping *= 4.0
        if not moved or before - cost < enough * before:
            break
    return Solution(point, cost, trust, scale)


def _cost(residuals: Floats, expected: int, scale: float) -> float:
    data = residuals[: len(residuals) - expected] / scale
    prior = residuals[len(residuals) - expected :]
    return float(np.sum(np.sqrt(1.0 + data * data) - 1.0)) * 2.0 * scale * scale + float(np.sum(prior * prior))


def _weights(residuals: Floats, expected: int, scale: float) -> Floats:
    weights = 1.0 / np.sqrt(1.0 + (residuals / scale) ** 2)
    weights[len(weights) - expected :] = 1.0
    return weights


def problem_of(
    shape: Shape, look: Outline, recordings: Sequence[Recording], parameters: Sequence[Parameter],
    lead_seconds: float, max_rpm: float, used: Sequence[Flags],
) -> Problem:  # fmt: skip
    """The problem of finding `parameters` from the readings of `recordings` that are `used`.

    Nothing runs beyond the last of them, because that would cost time and tell nothing.
    """
    ends = [int(np.flatnonzero(flags)[-1]) + 1 if np.any(flags) else 1 for flags in used]
    drives = [forward.drive(recording, lead_seconds, max_rpm) for recording in recordings]
    return Problem(
        shape=shape,
        look=look,
        drives=[each.until(end - 1) for each, end in zip(drives, ends, strict=True)],
        celsius=[recording.temperatures_celsius[:end] for recording, end in zip(recordings, ends, strict=True)],
        used=[flags[:end] for flags, end in zip(used, ends, strict=True)],
        parameters=parameters,
    )
