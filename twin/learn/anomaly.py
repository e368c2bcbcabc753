"""An eye for the unusual: an autoencoder over the learner's state, and residuals against what models say.

Each cycle gets a score; an alarm is a score above a threshold that follows a quantile of the scores of normal cycles.
The score is the largest of these, for all signals:

* how far a residual lies from its slow mean, over its spread (a quantile of that distance),
* the larger of two cumulative sums of it (Page, "Continuous inspection schemes", 1954), for what parts slowly, over
  such a quantile too,
* `MISSING` for a signal that is usually there and is not, which fades over the cycles after;

and to it comes, up to `ERROR_MOST`, the mean squared error with which 8 -> 4 -> 2 -> 4 -> 8 gives the known features
back, over its quantile. That is bounded because work that is new is as strange to the autoencoder as a fault is, and
an alarm by itself would keep the work from ever being learned.

It learns from normal cycles only: those that are not in alarm and that the gates call normal. Quantiles are followed by
small steps, up by their share and down by the rest (Robbins and Monro, "A stochastic approximation method", 1951), in
proportion to the quantile itself.

`cells` (float64) is `HEADER` cells, then `FEATURE_CELLS` for each of the eight features, then `RESIDUAL_CELLS` for each
residual, in the order of the constants below.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twin.kernels import Floats, Integers, Stream, kernel
from twin.learn.checkpoint import Array
from twin.learn.features import FEATURES, FRAMES, LATENCY, UNKNOWN
from twin.learn.network import (
    WEIGHT_MAX,
    backward,
    clear_gradient,
    descend,
    errors_at,
    forward,
    inputs_at,
    is_finite,
    new_network,
    new_shape,
    outputs_at,
    weights_of,
)

WIDTHS = (8, 4, 2, 4, 8)

FEATURE_COUNT = len(FEATURES)

# The header: normal cycles learned from, the last cycle's score, alarm (1 or 0) and what made the score (-1: nothing;
# a feature's place; or 8 and a residual's place), the followed quantile of the score, the last reconstruction error and
# its quantile, how often the network went back to its last good weights, and normal cycles since the run began.
LEARNED, SCORE, ALARM, WORST, QUANTILE, ERROR, ERROR_QUANTILE, ROLLBACKS, RUN = range(9)
HEADER = 9

# Of each feature and of each residual: what is left of `MISSING`, and in which share of normal cycles it is there.
GONE, SIGHTS = range(2)
FEATURE_CELLS = 2

# Of each residual besides: its mean, the quantile of the distance from it, the two sums, and their quantile.
CENTRE, SPREAD, ABOVE, BELOW, DRIFT = range(2, 7)
RESIDUAL_CELLS = 7

WARM_UP_CYCLES = 600
"""Normal cycles to learn from before anything but what is missing can be an alarm."""
UNTRAINED_CYCLES = 200
"""Before that, errors of a network and distances from a mean that have only begun to settle say nothing. So it is for
the distances at the beginning of every run: the model starts where a coarse reading happens to be, which moves the mean
by up to a quantum."""
SCORE_SHARE = 0.998
MARGIN = 1.5
"""The threshold is the `SCORE_SHARE` quantile of the score times this."""
LEAST_QUANTILE, MOST_QUANTILE = 1.0, 4.0
"""Bounds of that quantile, so that no slow change for the worse can lead it away."""
PART_SHARE = 0.99
LEAST_SPREAD = 0.5
LEAST_DRIFT = 4.0
LEAST_ERROR = 0.005
ERROR_WEIGHT = 0.1
ERROR_MOST = 0.4
MISSING = 20.0
FADE = 0.95
"""What is left of `MISSING` a cycle later."""
USUAL = 0.98
"""A signal that is there in this share of the normal cycles is missed when it is not."""
SIGHT_SHARE = 0.001
CENTRE_SHARE = 0.005
STEP, FIRST_STEPS = 0.01, 20.0
"""Quantiles move by `FIRST_STEPS` / cycles of themselves (0.5 at most) while warming up, and by `STEP` from then on.
A smaller one is left behind by a room that warms up, for good since nothing is learned in an alarm; a larger one runs
ahead of a fault that grows."""
SLACK = 0.45
"""What the cumulative sums forgive a cycle, in spreads: where within its quantum a steady reading lies is no news."""
LARGEST = 3.0
"""No single cycle adds more to a cumulative sum, or moves a mean by more, in spreads."""
MOST = 30.0
"""A cumulative sum grows no further, so that it also ends."""
FAR = 1e6
"""A residual beyond this is cut to it."""
FEATURE_FAR = 10.0
RATE = 0.01
LONGEST = 1.0


class AnomalyDetector:
    """Judges cycles by the eight features and `residuals` residuals. Weights are drawn from the seed."""

    def __init__(self, residuals: int, seed: int) -> None:
        if residuals < 0:
            raise ValueError(f"residuals is {residuals}; allowed are 0 and more")
        self._shape = new_shape(*WIDTHS)
        self._net = new_network(self._shape, Stream(seed, "learn.anomaly"))
        self._cells = new_cells(residuals)
        self._residuals = residuals
        self.operands = (self._shape, self._net, self._cells)

    @property
    def score(self) -> float:
        """How unusual the last cycle was, 0 and up; around 1 is the edge of the usual."""
        return self._cells.item(SCORE)

    @property
    def error(self) -> float:
        """The mean squared error with which the last cycle's features came through the bottleneck."""
        return self._cells.item(ERROR)

    @property
    def alarm(self) -> bool:
        """Whether the last cycle was above the threshold, or missed a signal."""
        return self._cells.item(ALARM) != 0.0

    @property
    def threshold(self) -> float:
        """What a score is held against, `MARGIN` times 1..4."""
        return MARGIN * self._cells.item(QUANTILE)

    @property
    def learned_cycles(self) -> int:
        """How many normal cycles it has learned from."""
        return int(self._cells.item(LEARNED))

    @property
    def rollbacks(self) -> int:
        """How often the autoencoder went back to its last good weights."""
        return int(self._cells.item(ROLLBACKS))

    def cause(self, names: tuple[str, ...]) -> str:
        """Which signal made the last score: a feature, or one of `names` of the residuals; empty for none."""
        worst = int(self._cells.item(WORST))
        return "" if worst < 0 else (*FEATURES, *names)[worst]

    def see(self, state: Floats, residuals: Floats, usable: Integers, normal: bool, fresh: bool = False,
            learning: bool = True) -> bool:  # fmt: skip
        """Judge a cycle, learn from it if it is `normal` and gives no alarm, and say whether it does.

        Without `learning` only the means follow, since they depend on the run and not on what was learned.

        `state` holds the eight features (`UNKNOWN` where not known), `residuals` one number a signal in units of what
        is ordinary, `usable` 1 where that could be had, else 0. What is not finite counts as missing, but in a cycle
        that is `fresh`, because some signals need two looks. Raises `ValueError` for other lengths.
        """
        if len(state) != FEATURE_COUNT or len(residuals) != self._residuals or len(usable) != self._residuals:
            raise ValueError(
                f"{len(state)} features, {len(residuals)} residuals and {len(usable)} marks; give {FEATURE_COUNT}, "
                f"{self._residuals} and {self._residuals}"
            )
        return bool(judge(*self.operands, state, residuals, usable, normal, fresh, learning))

    def forget(self) -> None:
        """Another run begins: what was missed and summed up has nothing to do with what comes."""
        first = HEADER + FEATURE_CELLS * FEATURE_COUNT
        self._cells[HEADER + GONE : first : FEATURE_CELLS] = 0.0
        self._cells[RUN] = 0.0
        for cell in (GONE, ABOVE, BELOW):
            self._cells[first + cell :: RESIDUAL_CELLS] = 0.0

    def weights(self) -> Floats:
        """The autoencoder's 98 parameters, as a view: for digests."""
        return weights_of(self._shape, self._net)

    def arrays(self) -> dict[str, Floats]:
        """Copies of everything that it knows: a detector restored from them goes on bit for bit."""
        return {"net": self._net.copy(), "cells": self._cells.copy()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from `arrays()` of a detector of the same residuals.

        Raises `ValueError`, and changes nothing, for arrays that are missing, of another form, or not finite.
        """
        for name, own in (("net", self._net), ("cells", self._cells)):
            given = arrays.get(name)
            if given is None or given.shape != own.shape or given.dtype != own.dtype:
                found = "missing" if given is None else f"{given.dtype} {given.shape}"
                raise ValueError(f"array {name} of the anomaly detector is {found}; it must be {own.dtype} {own.shape}")
            if not np.isfinite(given).all():
                raise ValueError(f"array {name} of the anomaly detector has values that are not finite; train anew")
        if np.abs(arrays["net"][: int(self._shape[1])]).max() > WEIGHT_MAX:
            raise ValueError(f"array net of the anomaly detector has weights beyond {WEIGHT_MAX:g}; train anew")
        self._net[:] = arrays["net"]
        self._cells[:] = arrays["cells"]


def new_cells(residuals: int) -> Floats:
    """The state of a detector that has seen nothing."""
    first = HEADER + FEATURE_CELLS * FEATURE_COUNT
    cells = np.zeros(first + RESIDUAL_CELLS * residuals)
    cells[WORST] = -1.0
    cells[QUANTILE] = LEAST_QUANTILE
    cells[ERROR_QUANTILE] = LEAST_ERROR
    cells[first + SPREAD :: RESIDUAL_CELLS] = LEAST_SPREAD
    cells[first + DRIFT :: RESIDUAL_CELLS] = LEAST_DRIFT
    return cells


@kernel
def follow(quantile: float, value: float, share: float, step: float, least: float) -> float:
    """The quantile after one more value: it is to lie above `share` of all values, and at `least` or above."""
    if value > quantile:
        quantile *= 1.0 + step * share
    else:
        quantile *= 1.0 - step * (1.0 - share)
    return max(least, quantile)


@kernel
def notice(cells: Floats, at: int, there: bool) -> float:
    """What the absence of the signal at `at` is worth in this cycle."""
    if there or cells[at + SIGHTS] < USUAL:
        cells[at + GONE] *= FADE
    else:
        cells[at + GONE] = MISSING
    return float(cells[at + GONE])


@kernel
def cut(value: float, most: float) -> float:
    """`value` within -most..most."""
    return min(most, max(-most, value))


@kernel
def judge(
    shape: Integers, net: Floats, cells: Floats, state: Floats, residuals: Floats, usable: Integers, normal: bool,
    fresh: bool, learning: bool,
) -> bool:  # fmt: skip
    """`AnomalyDetector.see`."""
    inputs = inputs_at(shape)
    settled = cells[RUN] >= UNTRAINED_CYCLES
    worst = -1
    score = 0.0
    missed = False
    for i in range(FEATURE_COUNT):
        there = is_finite(state, i, 1) and state[i] != UNKNOWN
        net[inputs + i] = cut(state[i], FEATURE_FAR) if there else UNKNOWN
        # An application may end; that it makes no frames then is no fault.
        if i != FRAMES and i != LATENCY:
            part = notice(cells, HEADER + FEATURE_CELLS * i, there or fresh)
            missed = missed or part == MISSING
            if part > score:
                score = part
                worst = i
    for i in range(len(residuals)):
        at = HEADER + FEATURE_CELLS * FEATURE_COUNT + RESIDUAL_CELLS * i
        there = usable[i] != 0 and is_finite(residuals, i, 1)
        part = notice(cells, at, there or fresh)
        missed = missed or part == MISSING
        if there:
            z = (cut(residuals[i], FAR) - cells[at + CENTRE]) / cells[at + SPREAD]
            part = max(part, abs(z))
            if settled:
                kick = cut(z, LARGEST)
                cells[at + ABOVE] = min(MOST, max(0.0, cells[at + ABOVE] + kick - SLACK))
                cells[at + BELOW] = min(MOST, max(0.0, cells[at + BELOW] - kick - SLACK))
        part = max(part, max(cells[at + ABOVE], cells[at + BELOW]) / cells[at + DRIFT])
        if part > score:
            score = part
            worst = FEATURE_COUNT + i
    known = _reconstruct(shape, net, cells)
    score += min(ERROR_MOST, ERROR_WEIGHT * cells[ERROR] / cells[ERROR_QUANTILE])
    alarm = missed or (cells[LEARNED] >= WARM_UP_CYCLES and score > MARGIN * cells[QUANTILE])
    cells[SCORE] = score
    cells[WORST] = worst
    cells[ALARM] = 1.0 if alarm else 0.0
    begins = cells[RUN] < UNTRAINED_CYCLES
    if learning and normal and not alarm:
        _learn(shape, net, cells, residuals, usable, known)
    if normal and (begins or not alarm):
        _centre(cells, residuals, usable)
        cells[RUN] += 1.0 if begins else 0.0
    return alarm


@kernel
def _reconstruct(shape: Integers, net: Floats, cells: Floats) -> int:
    """Run the autoencoder over the inputs in `net`; note the error over the known ones, and return how many those are.

    What is apart stands as errors in `net` then: twice the distance over the number known, the slope of the error.
    """
    forward(shape, net)
    inputs, outputs, errors = inputs_at(shape), outputs_at(shape), errors_at(shape)
    known = 0
    for i in range(FEATURE_COUNT):
        if net[inputs + i] != UNKNOWN:
            known += 1
    square = 0.0
    for i in range(FEATURE_COUNT):
        net[errors + i] = 0.0
        if net[inputs + i] != UNKNOWN:
            apart = net[outputs + i] - net[inputs + i]
            square += apart * apart
            net[errors + i] = 2.0 * apart / known
    cells[ERROR] = square / known if known > 0 else 0.0
    return known


@kernel
def _centre(cells: Floats, residuals: Floats, usable: Integers) -> None:
    """Let the means follow: at the beginning of a run they are of all its normal cycles alike."""
    share = max(CENTRE_SHARE, 1.0 / (1.0 + cells[RUN]))
    for i in range(len(residuals)):
        at = HEADER + FEATURE_CELLS * FEATURE_COUNT + RESIDUAL_CELLS * i
        if usable[i] != 0 and is_finite(residuals, i, 1):
            apart = cut(residuals[i], FAR) - cells[at + CENTRE]
            cells[at + CENTRE] += share * cut(apart, LARGEST * cells[at + SPREAD])


@kernel
def _learn(shape: Integers, net: Floats, cells: Floats, residuals: Floats, usable: Integers, known: int) -> None:
    """Learn from the cycle that `judge` has judged."""
    inputs = inputs_at(shape)
    learned = cells[LEARNED]
    settled = learned >= UNTRAINED_CYCLES
    step = STEP if learned >= WARM_UP_CYCLES else min(0.5, FIRST_STEPS / (1.0 + learned))
    sight = max(SIGHT_SHARE, 1.0 / (1.0 + learned))
    for i in range(FEATURE_COUNT):
        at = HEADER + FEATURE_CELLS * i
        there = 1.0 if net[inputs + i] != UNKNOWN else 0.0
        cells[at + SIGHTS] += sight * (there - cells[at + SIGHTS])
    for i in range(len(residuals)):
        at = HEADER + FEATURE_CELLS * FEATURE_COUNT + RESIDUAL_CELLS * i
        there = 1.0 if usable[i] != 0 and is_finite(residuals, i, 1) else 0.0
        cells[at + SIGHTS] += sight * (there - cells[at + SIGHTS])
        if there == 1.0:
            apart = cut(residuals[i], FAR) - cells[at + CENTRE]
            cells[at + SPREAD] = follow(cells[at + SPREAD], abs(apart), PART_SHARE, step, LEAST_SPREAD)
            if cells[RUN] >= UNTRAINED_CYCLES:
                drift = max(cells[at + ABOVE], cells[at + BELOW])
                cells[at + DRIFT] = follow(cells[at + DRIFT], drift, PART_SHARE, step, LEAST_DRIFT)
    if settled:
        cells[ERROR_QUANTILE] = follow(cells[ERROR_QUANTILE], cells[ERROR], PART_SHARE, step, LEAST_ERROR)
        quantile = follow(cells[QUANTILE], cells[SCORE], SCORE_SHARE, step, LEAST_QUANTILE)
        cells[QUANTILE] = min(MOST_QUANTILE, quantile)
    if known > 0:
        clear_gradient(shape, net)
        backward(shape, net)
        if not descend(shape, net, RATE, LONGEST):
            cells[ROLLBACKS] += 1.0
    cells[LEARNED] = learned + 1.0
