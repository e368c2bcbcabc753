"""Made-up candidates for the golden choice: fingerprints of runs and kicks, drawn from distributions that are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from twin.fingerprint.configuration import KINDS, KickResult
from twin.fingerprint.scoring import Candidate


def fingerprint(
    score: float | None = 80.0,
    ticks: int | None = 3_000,
    correlation: float | None = 0.7,
    jitter_ns: float | None = 1_000.0,
    white: bool | None = True,
) -> dict[str, Any]:
    """A run's fingerprint, as far as a choice reads it; without `ticks` it did not converge."""
    return {
        "overall_stability_score": score,
        "converged": ticks is not None,
        "convergence_time_ticks": ticks,
        "load_to_heartbeat_corr": correlation,
        "avg_jitter_ns_steady": jitter_ns,
        "jitter_is_white": white,
        "metric_noise_coupling": 0.2,
        "entropy_growth_rate": 0.001,
        "eigenmode_decay_rate_hz": 12.0,
        "reasons": {},
    }


def kicks(seeds: int = 3, deepest: float = 16.0, ticks: int = 500) -> list[KickResult]:
    """Kicks of every kind that return up to `deepest`, a hundred ticks later under each seed."""
    return [
        KickResult(kind, seed, strength, strength <= deepest, ticks + 100 * seed if strength <= deepest else None)
        for seed in range(seeds)
        for kind in KINDS
        for strength in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    ]


@dataclass(frozen=True)
class Distribution:
    """What the runs of a configuration are drawn from."""

    score: float = 80.0
    score_deviation: float = 3.0
    converging: float = 0.97
    ticks: float = 3_000.0
    ticks_deviation: float = 800.0
    correlation: float = 0.70
    correlation_deviation: float = 0.05
    jitter_deviation: float = 0.15
    white: float = 0.9
    ticks_to_return: float = 500.0

    def draw(self, random: np.random.Generator, runs: int, seeds: int = 4) -> Candidate:
        """So many runs, and kicks under so many seeds."""
        drawn = []
        for _ in range(runs):
            converged = random.random() < self.converging
            drawn.append(
                fingerprint(
                    float(random.normal(self.score, self.score_deviation)),
                    max(0, int(random.normal(self.ticks, self.ticks_deviation))) if converged else None,
                    float(random.normal(self.correlation, self.correlation_deviation)),
                    float(1_000.0 * random.lognormal(0.0, self.jitter_deviation)) if converged else None,
                    bool(random.random() < self.white) if converged else None,
                )
            )
        kicked = []
        for seed in range(seeds):
            ticks = max(0, int(random.normal(self.ticks_to_return, 100.0)))
            kicked += [KickResult(kind, seed, strength, True, ticks) for kind in KINDS for strength in (4.0, 16.0)]
        return Candidate(drawn, kicked)
