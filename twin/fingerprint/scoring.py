"""What a configuration is worth: five dimensions, each 0..1 on a scale that knows nothing of other configurations.

Three forms, so that what gets better never costs:

* `least_of_five`: the mean of the worst of five runs drawn at random. It is the mean less what spread takes away; a run
  that gets better never lowers it, which cannot be said of a mean less its standard deviation.
* `alike`: how much two different runs drawn at random are alike, where a run without the figure is like no other.
* a share of runs.

docs/fingerprint_golden.md has the formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twin.fingerprint.configuration import KickResult, Ladder, Run, ladders, number
from twin.kernels import Floats, Integers, draw32, kernel, log

WEIGHTS: Mapping[str, float] = {"stability": 0.30, "convergence": 0.25, "coupling": 0.20, "basin": 0.15, "jitter": 0.10}
"""Of the dimensions, in the order in which arrays have them. They add up to 1."""
DIMENSIONS = tuple(WEIGHTS)
STABILITY, CONVERGENCE, COUPLING, BASIN, JITTER = range(len(DIMENSIONS))

FULL_SCORE = 100.0
CHANCE_CORRELATION, FULL_CORRELATION = 0.2, 0.8
"""The best of 51 lags has about 0.2 by chance; from 0.8 on a run has full marks."""
ALIKE_TICKS = 5_000
"""Runs that converge so far apart are not alike."""
ALIKE_MICRO = 400_000
"""Runs whose jitters have a ratio of exp(0.4) or more, which is a CV of about 0.35, are not alike."""
DEEP_SIGMAS = 32.0
"""Who returns from kicks up to here has full marks for depth."""
SLOW_TICKS = 1_000
"""Who takes so long to return has half the marks for speed."""
RETURNING = 0.5
"""How much of a rung is for returning; the rest is for how fast."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that may be chosen: the fingerprints of its runs, and what became of its kicks."""

    runs: Sequence[Run]
    kicks: Sequence[KickResult] = ()


class Figures(NamedTuple):
    """What the kernels need of a candidate; n runs and m seeds of kicks, in an order of their values.

    `credits` and `places` have the shape (2, n): stability and coupling of the runs, 0..1 and rising, and whose they
    are. `marks` and `owners` likewise: convergence times in ticks and logarithms of the jitter in millionths, the first
    `present` (2) of them; `scales` (2) is what makes two of them unlike. `white` (n) is 0 or 1, `basins` (m) 0..1.
    """

    credits: Floats
    places: Integers
    marks: Integers
    owners: Integers
    present: Integers
    scales: Integers
    white: Integers
    basins: Floats

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(self.white)


def figures_of(candidate: Candidate) -> Figures:
    """The arrays of a candidate. The order of its runs and of its kicks changes no bit of them."""
    # Sorted by all that counts, so that a resample is a function of the runs as a set.
    rows = sorted((_row(run) for run in candidate.runs), key=lambda row: [(x is None, x or 0) for x in row])
    n = len(rows)
    figures = Figures(
        np.zeros((2, n)),
        np.zeros((2, n), dtype=np.int64),
        np.zeros((2, n), dtype=np.int64),
        np.zeros((2, n), dtype=np.int64),
        np.zeros(2, dtype=np.int64),
        np.array([ALIKE_TICKS, ALIKE_MICRO], dtype=np.int64),
        np.array([row.white for row in rows], dtype=np.int64),
        np.array(sorted(basin(of_seed) for of_seed in ladders(candidate.kicks).values()), dtype=np.float64),
    )
    for i, credit_of in enumerate((_stability, _coupling)):
        order = sorted(range(n), key=lambda k, credit_of=credit_of: credit_of(rows[k]))  # type: ignore[misc]
        figures.places[i] = order
        figures.credits[i] = [credit_of(rows[k]) for k in order]
    for i, mark_of in enumerate(_MARKS):
        found = sorted((mark, k) for k, row in enumerate(rows) if (mark := mark_of(row)) is not None)
        figures.present[i] = len(found)
        for place, (mark, k) in enumerate(found):
            figures.marks[i, place], figures.owners[i, place] = mark, k
    return figures


class _Row(NamedTuple):
    """What counts of a run."""

    stability: float
    coupling: float
    convergence_ticks: int | None
    jitter_micro: int | None
    white: int


def _stability(row: _Row) -> float:
    return row.stability


def _coupling(row: _Row) -> float:
    return row.coupling


_MARKS: tuple[Callable[[_Row], int | None], ...] = (lambda row: row.convergence_ticks, lambda row: row.jitter_micro)


def _row(run: Run) -> _Row:
    """A figure that is missing earns nothing: credit 0, or like no other run."""
    score, correlation = number(run, "overall_stability_score"), number(run, "load_to_heartbeat_corr")
    time_ticks, jitter_ns = number(run, "convergence_time_ticks"), number(run, "avg_jitter_ns_steady")
    return _Row(
        0.0 if score is None else _clipped(score / FULL_SCORE),
        0.0 if correlation is None else correlation_credit(correlation),
        int(time_ticks) if run.get("converged") and time_ticks is not None else None,
        None if jitter_ns is None else round(1e6 * log(jitter_ns)),
        1 if run.get("jitter_is_white") else 0,
    )


def correlation_credit(correlation: float) -> float:
    """What a run's correlation of load and heartbeat earns: 0 up to what chance gives, 1 from 0.8 on."""
    return _clipped((correlation - CHANCE_CORRELATION) / (FULL_CORRELATION - CHANCE_CORRELATION))


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))


def basin(of_seed: Mapping[str, Ladder]) -> float:
    """The basin of one seed, 0..1: of its weakest kind, the share of 0..32 deviations from which it returns.

    Each piece between two strengths has what the upper one earned: half for returning, half for how fast.
    """
    worth = []
    for rungs in of_seed.values():
        earned = below = 0.0
        for strength, ticks in rungs:
            upper = min(strength, DEEP_SIGMAS)
            earned += (upper - below) * (RETURNING + (1.0 - RETURNING) / (1.0 + ticks / SLOW_TICKS))
            below = upper
        worth.append(earned / DEEP_SIGMAS)
    return min(worth, default=0.0)


@kernel
def least_of_five(values: Floats, places: Integers, counts: Integers, draws: int) -> float:
    """Mean of the least of five values drawn with replacement; `values` rise, and i is there counts[places[i]] times.

    The integral of S(x)^5, S being the share above x (MINVAR of Cherny and Madan, "New measures for performance
    evaluation", 2009). Equal values give their value to the last bit.
    """
    above = draws
    result = float(values[0])
    for i in range(1, len(values)):
        above -= counts[places[i - 1]]
        share = above / draws
        square = share * share
        result += (values[i] - values[i - 1]) * (square * square * share)
    return result


@kernel
def alike(marks: Integers, owners: Integers, present: int, scale: int, counts: Integers, draws: int) -> float:
    """Mean of max(0, 1 - |a - b| / scale) over all pairs of draws of different runs; runs without a mark add 0.

    `marks` rise up to `present`, number i is there counts[owners[i]] times; one pass with a window that holds the marks
    less than `scale` below. Integers, so exact. Where all draws are of one run: 1 if it has a mark, else 0.
    """
    pairs = draws * draws
    for i in range(len(counts)):
        pairs -= counts[i] * counts[i]
    if pairs == 0:
        for i in range(present):
            if counts[owners[i]] > 0:
                return 1.0
        return 0.0
    first = 0
    weight = 0
    moment = 0
    total = 0
    for i in range(present):
        mark = marks[i]
        count = counts[owners[i]]
        while marks[first] + scale <= mark:
            gone = counts[owners[first]]
            weight -= gone
            moment -= gone * marks[first]
            first += 1
        total += count * (weight * (scale - mark) + moment)
        weight += count
        moment += count * mark
    return 2 * total / (pairs * scale)


@kernel
def score_runs(
    values: Floats,
    places: Integers,
    marks: Integers,
    owners: Integers,
    present: Integers,
    scales: Integers,
    white: Integers,
    counts: Integers,
    draws: int,
    scores: Floats,
) -> None:
    """Write the dimensions that runs decide, when run k is there counts[k] times (`draws` in all)."""
    whites = 0
    for i in range(len(white)):
        whites += counts[i] * white[i]
    scores[STABILITY] = least_of_five(values[0], places[0], counts, draws)
    scores[COUPLING] = least_of_five(values[1], places[1], counts, draws)
    scores[CONVERGENCE] = alike(marks[0], owners[0], present[0], scales[0], counts, draws)
    steady = alike(marks[1], owners[1], present[1], scales[1], counts, draws)
    scores[JITTER] = 0.5 * steady + 0.5 * (whites / draws)


@kernel
def resample(
    run_keys: Integers,
    seed_keys: Integers,
    values: Floats,
    places: Integers,
    marks: Integers,
    owners: Integers,
    present: Integers,
    scales: Integers,
    white: Integers,
    basins: Floats,
    resamples: Floats,
) -> None:
    """Fill (number of resamples, 5) with the scores of runs and seeds of kicks drawn anew, with replacement."""
    n = len(white)
    seeds = len(basins)
    counts = np.zeros(n, dtype=np.int64)
    for k in range(len(resamples)):
        counts[:] = 0
        for i in range(n):
            counts[(draw32(run_keys[0], run_keys[1], k * n + i) * n) >> 32] += 1
        score_runs(values, places, marks, owners, present, scales, white, counts, n, resamples[k])
        total = 0.0
        for i in range(seeds):
            total += basins[(draw32(seed_keys[0], seed_keys[1], k * seeds + i) * seeds) >> 32]
        resamples[k, BASIN] = total / seeds if seeds > 0 else 0.0


def score(figures: Figures) -> Floats:
    """The five scores of a candidate with at least one run, as it is."""
    scores = np.zeros(len(DIMENSIONS))
    counts = np.ones(figures.runs, dtype=np.int64)
    score_runs(*figures[:-1], counts, figures.runs, scores)
    total = 0.0
    for worth in figures.basins.tolist():
        total += worth
    scores[BASIN] = total / len(figures.basins) if len(figures.basins) else 0.0
    return scores
