"""What earned and what cost a configuration its points, in words with figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from twin.fingerprint.configuration import Run, configuration_fingerprint, depth_sigmas, ladders
from twin.fingerprint.scoring import (
    BASIN,
    CONVERGENCE,
    COUPLING,
    DEEP_SIGMAS,
    JITTER,
    STABILITY,
    WEIGHTS,
    Candidate,
    Figures,
)
from twin.kernels import Floats


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def untold(runs: Sequence[Run]) -> str:
    """That it cannot be told of any of the runs whether it converges, and why; empty where it can be told of one."""
    if not runs or any(run.get("converged") is not None for run in runs):
        return ""
    reason = next((text for run in runs if (text := run.get("reasons", {}).get("converged"))), None)
    return "it cannot be told whether runs converge" + (f", because {reason}" if reason else "")


def justification(candidate: Candidate, figures: Figures, scores: Floats | None, points: float) -> str:
    """One sentence for each dimension: what it earns of how much, and where the rest went.

    `points` is what all dimensions are worth together; the costs of a sentence add up to what it does not earn.
    """
    if scores is None:
        return "There is no run, so nothing can be said."
    common = configuration_fingerprint(candidate.runs, candidate.kicks)
    worth = [points * weight for weight in WEIGHTS.values()]
    earned = [most * float(value) for most, value in zip(worth, scores, strict=True)]
    return " ".join(
        (
            _least("Stability", worth[STABILITY], earned[STABILITY], figures, 0, _score_words(common, figures.runs)),
            _convergence(worth[CONVERGENCE], earned[CONVERGENCE], figures, candidate, common),
            _least("Coupling", worth[COUPLING], earned[COUPLING], figures, 1, _coupling_words(candidate, common)),
            _basin(worth[BASIN], earned[BASIN], candidate, common),
            _jitter(worth[JITTER], earned[JITTER], figures, common),
        )
    )


def _head(name: str, worth: float, earned: float) -> str:
    return f"{name} earns {earned:.2f} of {worth:.0f} points"


def _cost(value: float) -> str:
    return f"costs {max(0.0, value):.2f}"


def _least(name: str, worth: float, earned: float, figures: Figures, row: int, words: str) -> str:
    """A dimension by `least_of_five`: the mean costs, and spread costs the rest."""
    total = 0.0
    for credit in figures.credits[row].tolist():
        total += credit
    mean = worth * total / figures.runs
    return f"{_head(name, worth, earned)}: {words}; the level {_cost(worth - mean)}, the spread {_cost(mean - earned)}."


def _score_words(common: dict[str, Any], runs: int) -> str:
    mean, deviation = common["score_mean"], common["score_std"]
    if mean is None:
        return f"{common['reasons']['score_mean']}"
    over = f", with a deviation of {deviation:.2f} over {runs} runs" if deviation is not None else ""
    return f"the score is {mean:.2f} of 100 on the mean{over}"


def _coupling_words(candidate: Candidate, common: dict[str, Any]) -> str:
    mean, deviation = common["load_to_heartbeat_corr_mean"], common["load_to_heartbeat_corr_std"]
    if mean is None:
        return f"{common['reasons']['load_to_heartbeat_corr_mean']}"
    without = sum(1 for run in candidate.runs if run.get("load_to_heartbeat_corr") is None)
    over = f" +- {deviation:.3f}" if deviation is not None else ""
    counted = f", and none, which counts as 0, in {without} of {len(candidate.runs)} runs" if without else ""
    return f"load and heartbeat have a correlation of {mean:.3f}{over}{counted}"


def _convergence(worth: float, earned: float, figures: Figures, candidate: Candidate, common: dict[str, Any]) -> str:
    """Runs that do not converge cost the pairs that they are in; spread costs the rest."""
    runs, there = figures.runs, int(figures.present[0])
    both = worth * (float(np.sqrt(there * (there - 1) / (runs * (runs - 1)))) if runs > 1 else there)
    told = untold(candidate.runs) or f"{there} of {runs} runs converge"
    words = f"{_head('Convergence', worth, earned)}: {told}, which {_cost(worth - both)}"
    mean, deviation = common["convergence_time_mean_ticks"], common["convergence_time_std_ticks"]
    if there > 1:
        words += f", after {mean:,.0f} +- {deviation:,.0f} ticks, a spread that {_cost(both - earned)}"
    return words + "."


def _basin(worth: float, earned: float, candidate: Candidate, common: dict[str, Any]) -> str:
    """The depth costs, and slowness the rest."""
    head = _head("Basin", worth, earned)
    found = ladders(candidate.kicks)
    if not found:
        return f"{head}: {common['reasons']['basin_depth_sigmas']}."
    share = 0.0
    for of_seed in found.values():
        share += min(1.0, depth_sigmas(of_seed) / DEEP_SIGMAS)
    deep = worth * share / len(found)
    words = f"{head}: kicks of up to {common['basin_depth_sigmas']:.2f} deviations die out, which {_cost(worth - deep)}"
    weakest = sorted({min(of_seed, key=lambda kind: _end(of_seed[kind])) for of_seed in found.values()})
    ticks = common["basin_return_ticks"]
    if ticks is not None:
        words += f", within {ticks:,.0f} ticks, which {_cost(deep - earned)}"
    words += f"; {listed(weakest)} goes least far"
    return words + ("; kicks under one seed do not tell their spread." if len(found) == 1 else ".")


def _end(rungs: list[tuple[float, int]]) -> float:
    return rungs[-1][0] if rungs else 0.0


def _jitter(worth: float, earned: float, figures: Figures, common: dict[str, Any]) -> str:
    """Half for runs that are alike, half for white ones."""
    runs, there = figures.runs, int(figures.present[1])
    whites = sum(figures.white.tolist())
    white = worth / 2 * whites / runs
    words = f"{_head('Jitter', worth, earned)}: "
    mean, variation = common["jitter_mean_ns"], common["jitter_cv"]
    if mean is None:
        words += f"{common['reasons']['jitter_mean_ns']}, which {_cost(worth / 2 - (earned - white))}"
    else:
        varying = f" with a CV of {variation:.3f}" if variation is not None else ""
        known = f" in the {there} of {runs} runs that have it" if there < runs else ""
        words += f"it is {mean:,.0f} ns{varying}{known}, which {_cost(worth / 2 - (earned - white))}"
    return f"{words}; {whites} of {runs} runs have white jitter, which {_cost(worth / 2 - white)}."
