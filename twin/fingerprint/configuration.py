"""The fingerprint of a configuration: what its runs have in common, and the kicks from which it comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twin.kernels import Floats, kernel

SCHEMA = "configuration/1"
COUPLED_MEAN = 0.8
"""A correlation of load and heartbeat from here on is a coupling."""
COUPLED_DEVIATION = 0.05
"""It is stable when it deviates no more than this from run to run."""
SIGNIFICANT_DIGITS = 9
KINDS = ("heat_burst", "load_pulse", "window_reset", "hot_ambient")
"""Ways to kick a steady run."""

Run = Mapping[str, Any]
"""A run's fingerprint; only fields that are named here are read, and one that is not there counts as None."""


@dataclass(frozen=True, slots=True)
class KickResult:
    """What became of a steady run that was kicked once. Raises `ValueError` for what cannot be.

    `strength_sigmas` (above 0) is in standard deviations of the steady state, `return_ticks` (0 or more) how long it
    took until all metrics stayed in their bands of 5 %; None where they did not return.
    """

    kind: str
    seed: int
    strength_sigmas: float
    returned: bool
    return_ticks: int | None

    def __post_init__(self) -> None:
        wrong = []
        if self.kind not in KINDS:
            wrong.append(f"kind is {self.kind!r}; allowed are {', '.join(KINDS)}")
        if not 0.0 < self.strength_sigmas < float("inf"):
            wrong.append(f"strength_sigmas is {self.strength_sigmas}; allowed are finite numbers above 0")
        if self.return_ticks is not None and self.return_ticks < 0:
            wrong.append(f"return_ticks is {self.return_ticks}; allowed are 0 and more, or None")
        if self.returned != (self.return_ticks is not None):
            wrong.append(
                f"returned is {self.returned} and return_ticks is {self.return_ticks}; a kick that returned has ticks, "
                "one that did not has None"
            )
        if wrong:
            raise ValueError("; ".join(wrong))


Ladder = list[tuple[float, int]]
"""Of one kind and seed: rising strengths (deviations) up to the last that returned like all below it, with how many
ticks each took."""


def ladders(kicks: Iterable[KickResult]) -> dict[int, dict[str, Ladder]]:
    """The ladder of each kind, for each seed; empty where the least strength did not return.

    A strength that was tried more than once returned when it did so every time, and took as long as the longest.
    """
    tried: dict[int, dict[str, dict[float, int | None]]] = {}
    for kick in kicks:
        strengths = tried.setdefault(kick.seed, {}).setdefault(kick.kind, {})
        before = strengths.get(kick.strength_sigmas, 0)
        lost = before is None or kick.return_ticks is None
        strengths[kick.strength_sigmas] = None if lost else max(before or 0, kick.return_ticks or 0)
    found: dict[int, dict[str, Ladder]] = {}
    for seed in sorted(tried):
        found[seed] = {}
        for kind in sorted(tried[seed]):
            rungs: Ladder = []
            for strength, ticks in sorted(tried[seed][kind].items()):
                if ticks is None:
                    break
                rungs.append((float(strength), ticks))
            found[seed][kind] = rungs
    return found


def depth_sigmas(of_seed: Mapping[str, Ladder]) -> float:
    """The largest strength (deviations) from which every kind returned, and from all smaller ones; 0 for none."""
    return min((rungs[-1][0] if rungs else 0.0 for rungs in of_seed.values()), default=0.0)


@kernel
def mean_and_deviation(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of one or more values; the deviation of one value is 0.

    Two passes, about the first value, so that equal values have exactly their value and 0.
    """
    count = len(values)
    first = values[0]
    total = 0.0
    for i in range(count):
        total += values[i] - first
    shift = total / count
    squares = 0.0
    for i in range(count):
        away = values[i] - first - shift
        squares += away * away
    return first + shift, np.sqrt(squares / (count - 1)) if count > 1 else 0.0


def rounded(value: float) -> float:
    """`value` to 9 significant digits, which is what leaves."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def number(run: Run, field: str) -> float | None:
    """The field of a run as a float; None where it is missing or no finite number."""
    value = run.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    value = float(value)
    return value if -float("inf") < value < float("inf") else None


class _Fields:
    """The fields and the reasons, as they come to be known."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self.found: dict[str, Any] = {"schema": SCHEMA, "runs": len(runs)}
        self.reasons: dict[str, str] = {}

    def put(self, field: str, value: float | None, reason: str) -> None:
        """Note a value, or why there is none."""
        self.found[field] = None if value is None else rounded(value)
        if value is None:
            self.reasons[field] = reason

    def values(self, field: str) -> tuple[list[float], str]:
        """The field of the runs that have it, rising, and what to say where none has.

        Sorted, so that the order of runs does not change a sum's last bits.
        """
        values = sorted(value for run in self._runs if (value := number(run, field)) is not None)
        if not self._runs:
            return values, "there is no run"
        why = next((run["reasons"][field] for run in self._runs if field in run.get("reasons", {})), None)
        return values, f"no run has {field}" + (f" ({why})" if why else "")

    def spread(self, source: str, mean: str, deviation: str | None = None, variation: str | None = None) -> None:
        """Mean, standard deviation and coefficient of variation of a field, under these names."""
        values, none = self.values(source)
        centre, away = mean_and_deviation(np.array(values)) if values else (0.0, 0.0)
        self.put(mean, centre if values else None, none)
        single = none if not values else f"only one run has {source}"
        if deviation is not None:
            self.put(deviation, away if len(values) > 1 else None, single)
        if variation is not None:
            there = len(values) > 1 and centre != 0.0
            self.put(
                variation,
                away / centre if there else None,
                f"the mean of {source} is 0" if len(values) > 1 else single,
            )

    def share(self, field: str, name: str) -> None:
        """The share of all runs in which a field is True; None where it is known of none."""
        told = [run[field] for run in self._runs if run.get(field) is not None]
        share = sum(1 for value in told if value) / len(self._runs) if told else None
        self.put(name, share, self.values(field)[1])


def configuration_fingerprint(runs: Sequence[Run], kicks: Sequence[KickResult] = ()) -> dict[str, Any]:
    """What the runs of one configuration have in common.

    docs/fingerprint_golden.md has every field with its formula. Floats have 9 significant digits; a field that cannot
    be computed is None, and `reasons` says why. The order of runs and kicks has no part in it.
    """
    fields = _Fields(runs)
    fields.spread("overall_stability_score", "score_mean", "score_std", "score_cv")
    fields.spread("convergence_time_ticks", "convergence_time_mean_ticks", "convergence_time_std_ticks")
    fields.share("converged", "convergence_success_rate")
    fields.spread("load_to_heartbeat_corr", "load_to_heartbeat_corr_mean", "load_to_heartbeat_corr_std")
    _coupling(fields, len(runs))
    fields.spread("avg_jitter_ns_steady", "jitter_mean_ns", "jitter_std_ns", "jitter_cv")
    fields.share("jitter_is_white", "white_ratio")
    fields.spread("metric_noise_coupling", "noise_coupling_mean")
    fields.spread("entropy_growth_rate", "entropy_growth_mean")
    fields.spread("eigenmode_decay_rate_hz", "eigenmode_decay_rate_hz_mean")
    _basin(fields, kicks)
    return {**fields.found, "reasons": fields.reasons}


def _coupling(fields: _Fields, runs: int) -> None:
    """Coupling is stable when every run has a correlation, high on the whole and alike."""
    values, none = fields.values("load_to_heartbeat_corr")
    if len(values) > 1:
        mean, deviation = mean_and_deviation(np.array(values))
        coupled = len(values) == runs and mean >= COUPLED_MEAN and deviation <= COUPLED_DEVIATION
        fields.found["coupling_is_stable"] = bool(coupled)
        return
    fields.found["coupling_is_stable"] = None
    fields.reasons["coupling_is_stable"] = "only one run has load_to_heartbeat_corr" if values else none


def _basin(fields: _Fields, kicks: Sequence[KickResult]) -> None:
    """Depth of each seed (the least over kinds), and the longest return at that rung; then means over seeds."""
    of_seeds = ladders(kicks).values()
    depths = sorted(depth_sigmas(of_seed) for of_seed in of_seeds)
    returns = [
        max(rungs[-1][1] for rungs in of_seed.values() if rungs) for of_seed in of_seeds if any(of_seed.values())
    ]
    none = "no kick returned" if depths else "nothing was kicked"
    fields.put("basin_depth_sigmas", mean_and_deviation(np.array(depths))[0] if depths else None, none)
    fields.put(
        "basin_return_ticks",
        mean_and_deviation(np.array(sorted(returns), dtype=np.float64))[0] if returns else None,
        none,
    )
