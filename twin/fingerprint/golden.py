"""The golden choice: which configuration is best, or between which it is a tie, how sure that is, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from twin.fingerprint.scoring import BASIN, DIMENSIONS, WEIGHTS, Candidate, Figures, figures_of, resample, score
from twin.fingerprint.series import rounded
from twin.fingerprint.words import justification, listed, untold
from twin.kernels import Floats, kernel, stream_key_array

SCHEMA = "golden/1"
POINTS = 100.0
"""What all dimensions with full marks are worth together."""
SURE = 0.95
"""The least probability of being best that makes a golden configuration, and the coverage of intervals."""
FEWEST_RUNS = 3
"""Fewer runs are no ground for a choice: where only luck decides whether a run converges, two of two against none of
two come up by chance once in eight times, three against none once in 32."""
SAME = 1e-7
"""Totals that are closer, in points, are equal."""

_TAIL = 0.025
_NORMAL = 1.959963984540054
"""The normal quantile at 1 - `_TAIL`."""


class _Judged(NamedTuple):
    """A candidate, what it earns (5 scores and the total in points), and its resamples (resamples, 5 and total).

    Without runs there are no scores, with fewer than two no resamples.
    """

    name: str
    figures: Figures
    scores: Floats | None
    total: float
    resamples: Floats | None


def golden(candidates: Mapping[str, Candidate], seed: int = 1, resamples: int = 2_000) -> dict[str, Any]:
    """Choose among configurations, by name. Answers schema `golden/1`; docs/fingerprint_golden.md defines it.

    `resamples` (100 or more) are drawn for each candidate from streams of its own under `seed`, so that nothing of a
    candidate but its probability of being best depends on the others. Raises `ValueError` for fewer resamples.
    """
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}; allowed are 100 and more")
    judged = [_judge(name, candidate, seed, resamples) for name, candidate in candidates.items()]
    judged.sort(key=lambda one: (one.scores is None, -rounded(one.total), one.name))
    reason = _unjudged(judged)
    probabilities = None if reason else _probabilities(judged)
    return {
        "schema": SCHEMA,
        **_choice(judged, candidates, probabilities, reason),
        "seed": seed,
        "resamples": resamples,
        "ranking": [
            _entry(one, candidates[one.name], None if probabilities is None else probabilities[i])
            for i, one in enumerate(judged)
        ],
    }


def _judge(name: str, candidate: Candidate, seed: int, resamples: int) -> _Judged:
    figures = figures_of(candidate)
    if figures.runs == 0:
        return _Judged(name, figures, None, 0.0, None)
    scores = score(figures)
    total = 0.0
    for i, weight in enumerate(WEIGHTS.values()):
        total += POINTS * weight * float(scores[i])
    if figures.runs == 1:
        return _Judged(name, figures, scores, total, None)
    drawn = np.zeros((resamples, len(DIMENSIONS)))
    resample(stream_key_array(seed, f"golden.{name}"), stream_key_array(seed, f"golden_kicks.{name}"), *figures, drawn)
    widths = np.full(len(DIMENSIONS), width(figures.runs))
    widths[BASIN] = width(len(figures.basins)) if len(figures.basins) > 1 else 1.0
    spread = np.zeros((resamples, len(DIMENSIONS) + 1))
    spread_about(drawn, scores, widths, np.array(list(WEIGHTS.values())), spread)
    return _Judged(name, figures, scores, total, spread)


def width(count: int) -> float:
    """By how much resamples of `count` (2 or more) values are too narrow: sqrt(n / (n - 1)) times Student's t over the
    normal quantile at 97.5 % (Hesterberg, "What teachers should know about the bootstrap", 2015: expanded percentiles).

    Student's quantile is the asymptotic expansion 26.7.5 of Abramowitz and Stegun, good to 0.3 % from 4 degrees of
    freedom on and too small below.
    """
    z, degrees = _NORMAL, count - 1
    square = z * z
    student = z + z * (square + 1.0) / (4.0 * degrees)
    student += z * ((5.0 * square + 16.0) * square + 3.0) / (96.0 * degrees * degrees)
    student += z * (((3.0 * square + 19.0) * square + 17.0) * square - 15.0) / (384.0 * degrees * degrees * degrees)
    return float(np.sqrt(count / degrees)) * student / z


@kernel
def spread_about(drawn: Floats, scores: Floats, widths: Floats, weights: Floats, spread: Floats) -> None:
    """Move resamples (n, 5) so that their means are `scores`, widen them, and add the total in points: (n, 6).

    The basin is a mean of its seeds, which no resample moves: it stays, so that candidates that are equal stay so.
    """
    count = len(drawn)
    dimensions = len(scores)
    for i in range(dimensions):
        first = drawn[0, i]
        total = 0.0
        for k in range(count):
            total += drawn[k, i] - first
        mean = scores[BASIN] if i == BASIN else first + total / count
        for k in range(count):
            value = min(1.0, max(0.0, scores[i] + widths[i] * (drawn[k, i] - mean)))
            spread[k, i] = value
            spread[k, dimensions] += 100.0 * weights[i] * value


@kernel
def count_best(totals: Floats, same: float, best: Floats) -> None:
    """Add to `best` (candidates) each one's share of being best in the rows of `totals` (resamples, candidates).

    Those within `same` of the largest share the row.
    """
    count = len(best)
    for k in range(len(totals)):
        largest = totals[k, 0]
        for i in range(1, count):
            if totals[k, i] > largest:
                largest = totals[k, i]
        sharing = 0
        for i in range(count):
            if totals[k, i] >= largest - same:
                sharing += 1
        for i in range(count):
            if totals[k, i] >= largest - same:
                best[i] += 1.0 / sharing


def _unjudged(judged: Sequence[_Judged]) -> str | None:
    """Why nothing can be chosen, whatever the figures."""
    if not judged:
        return "there is no candidate"
    few = [one for one in judged if one.figures.runs < FEWEST_RUNS]
    if few:
        runs = ", ".join(f"{one.name} has {_runs(one.figures.runs)}" for one in few)
        return f"cannot be judged: {runs}, and fewer than {FEWEST_RUNS} do not tell how much runs differ"
    return None


def _runs(count: int) -> str:
    return "no run" if count == 0 else "1 run" if count == 1 else f"{count} runs"


def _probabilities(judged: Sequence[_Judged]) -> list[float]:
    best = np.zeros(len(judged))
    totals = np.stack([one.resamples[:, -1] for one in judged if one.resamples is not None], axis=1)
    count_best(np.ascontiguousarray(totals), SAME, best)
    return [value / len(totals) for value in best.tolist()]


def interval(values: Floats) -> tuple[float, float]:
    """The percentiles 2.5 and 97.5 of at least one value, linear between the nearest two."""
    rising = np.sort(values).tolist()
    return _percentile(rising, _TAIL), _percentile(rising, 1.0 - _TAIL)


def _percentile(rising: Sequence[float], share: float) -> float:
    place = share * (len(rising) - 1)
    below = min(int(place), len(rising) - 1)
    above = min(below + 1, len(rising) - 1)
    return rising[below] + (place - below) * (rising[above] - rising[below])


def _choice(
    judged: Sequence[_Judged],
    candidates: Mapping[str, Candidate],
    probabilities: Sequence[float] | None,
    reason: str | None,
) -> dict[str, Any]:
    """Golden, tie, why, and the leader's lead over the runner-up."""
    answer: dict[str, Any] = {"golden": None, "tie": [], "why": f"There is no golden configuration: {reason}."}
    if probabilities is None:
        return {**answer, "lead": None}
    leader = judged[0]
    leads = [(other.name, *_lead(leader, other)) for other in judged[1:]]
    lead = None
    if leads:
        over, points, low, high = leads[0]
        lead = {"over": over, "points": rounded(points), "interval": [rounded(low), rounded(high)]}
    converged = {one.name: any(run.get("converged") for run in candidates[one.name].runs) for one in judged}
    if not any(converged.values()):
        why = untold([run for one in judged for run in candidates[one.name].runs])
        why = why or "no run of any candidate converged"
        return {**answer, "why": f"There is no golden configuration: {why}.", "lead": lead}
    if probabilities[0] >= SURE and all(low > SAME for _, _, low, _ in leads):
        if converged[leader.name]:
            return {"golden": leader.name, "tie": [], "why": _why_golden(leader, probabilities[0], leads), "lead": lead}
        unknown = untold(candidates[leader.name].runs)
        why = (
            f"There is no golden configuration: {leader.name} is ahead, but {unknown or 'none of its runs converged'}."
        )
        return {**answer, "why": why, "lead": lead}
    tie = _tie(judged, probabilities)
    chances = {one.name: probability for one, probability in zip(judged, probabilities, strict=True)}
    why = (
        f"It is a tie: {listed(tie)} are best with probabilities of {listed([_chance(chances[name]) for name in tie])}"
    )
    over, points, low, high = next((one for one in leads if one[0] in tie), leads[0])
    why += f"; {leader.name} leads {over} by {points:.2f} points (95 % interval {low:.2f} to {high:.2f})."
    return {"golden": None, "tie": tie, "why": why, "lead": lead}


def _lead(leader: _Judged, other: _Judged) -> tuple[float, float, float]:
    """How many points `leader` is ahead, with the interval."""
    assert leader.resamples is not None
    assert other.resamples is not None
    return leader.total - other.total, *interval(leader.resamples[:, -1] - other.resamples[:, -1])


def _tie(judged: Sequence[_Judged], probabilities: Sequence[float]) -> list[str]:
    """The fewest and likeliest whose probabilities add up to `SURE`, at least two; in the order of the ranking."""
    likeliest = sorted(range(len(judged)), key=lambda i: (-probabilities[i], i))
    tie: list[int] = []
    reached = 0.0
    for i in likeliest:
        if len(tie) >= 2 and reached >= SURE - 1e-9:
            break
        tie.append(i)
        reached += probabilities[i]
    return [judged[i].name for i in sorted(tie)]


def _why_golden(leader: _Judged, probability: float, leads: Sequence[tuple[str, float, float, float]]) -> str:
    if not leads:
        return f"{leader.name} is the only candidate; it was compared with nothing."
    over, points, low, high = leads[0]
    return (
        f"{leader.name} is best with a probability of {_chance(probability)}, and leads {over} by {points:.2f} points "
        f"(95 % interval {low:.2f} to {high:.2f})."
    )


def _chance(probability: float) -> str:
    """Three digits, and never more than is known."""
    if 0.0 < probability < 0.001:
        return "less than 0.001"
    if 0.999 < probability < 1.0:
        return "more than 0.999"
    return f"{probability:.3f}"


def _entry(one: _Judged, candidate: Candidate, probability: float | None) -> dict[str, Any]:
    """A candidate's place in the ranking."""
    runs = one.figures.runs
    reasons = {}
    if one.scores is None:
        reasons["total"] = "there is no run"
    if one.resamples is None:
        reasons["interval"] = f"{_runs(runs)} {'have' if runs > 1 else 'has'} no spread"
    if probability is None:
        reasons["probability_best"] = "some candidate has fewer than " + _runs(FEWEST_RUNS)
    dimensions = {}
    for i, (name, weight) in enumerate(WEIGHTS.items()):
        value = None if one.scores is None else float(one.scores[i])
        dimensions[name] = {
            "score": None if value is None else rounded(value),
            "interval": None if one.resamples is None else _bounded(one.resamples[:, i], 1.0),
            "weight": weight,
            "points": None if value is None else rounded(POINTS * weight * value),
        }
    return {
        "name": one.name,
        "runs": runs,
        "total": None if one.scores is None else rounded(one.total),
        "interval": None if one.resamples is None else _bounded(one.resamples[:, -1], POINTS),
        "probability_best": None if probability is None else rounded(probability),
        "dimensions": dimensions,
        "justification": justification(candidate, one.figures, one.scores, POINTS),
        "reasons": reasons,
    }


def _bounded(values: Floats, most: float) -> list[float]:
    """The interval within what a score can be."""
    low, high = interval(values)
    return [rounded(min(most, max(0.0, low))), rounded(min(most, max(0.0, high)))]
