"""`twin evaluate`: what a checkpoint is worth, against the baseline, on scenarios and seeds.

Each case is run twice with the same seed: by the baseline alone, and with the learner at full authority, its weights as
they are in the checkpoint. Differences are taken pair by pair; their interval is a bootstrap over the pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hardware.interface import Limit
from twin.cli import ANSWER_IS_NO, DONE, InputError, output
from twin.cli.episode import Case, cases_of, check_seeds, play
from twin.control.choose import make_controller
from twin.control.view import Controller
from twin.kernels import Stream
from twin.learn.brain import Brain
from twin.learn.checkpoint import latest_good
from twin.loader import shipped
from twin.scenario import Scenario

RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Pair:
    """What one scenario and seed gave under the baseline and under the learner."""

    scenario: str
    seed: int
    reward_baseline: float
    reward_learned: float
    over_limit_seconds_baseline: float
    over_limit_seconds_learned: float
    energy_joules_baseline: float
    energy_joules_learned: float
    frames_per_second_baseline: float
    frames_per_second_learned: float
    proposals: int
    cycles: int


def main(options: argparse.Namespace) -> int:
    """Run the pairs and compare. The answer is no when the learner's reward is not surely above the baseline's."""
    check_seeds(options)
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}: at least 1 is needed")
    state = latest_good(Path(options.checkpoint))
    path = state.path
    trained = str(state.facts.get("scenarios", "")).split()
    names = options.scenario or [name for name in shipped() if name not in trained]
    if not names:
        raise InputError(f"{path}: was trained on every scenario that is shipped; name those to evaluate it on")
    for case in cases_of(names, options.set):
        # Whatever does not fit is said before the first run, and by this process.
        Brain(replace(case.scenario, learn=replace(case.scenario.learn, learning=False)), path)
    jobs = [
        (str(path), name, tuple(options.set), options.first_seed + number)
        for name in names
        for number in range(options.seeds)
    ]
    pairs: list[Pair] = []
    with output.Progress(options, "evaluating", len(jobs), "pairs") as progress:
        for pair in _pairs(jobs, options.workers):
            pairs.append(pair)
            progress.reached(len(pairs))
    result = summary(pairs)
    result = {"checkpoint": str(path), "digest": state.digest, "trained_on": trained, **result}
    _report(options, result)
    return DONE if result["reward_difference_low"] is not None and result["reward_difference_low"] > 0 else ANSWER_IS_NO


Job = tuple[str, str, tuple[str, ...], int]


def _pairs(jobs: Sequence[Job], workers: int) -> Any:
    if workers == 1:
        yield from map(one_pair, jobs)
        return
    # Forked children would share descriptors and locks of the parent; spawned ones share nothing.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(one_pair, jobs)


def one_pair(job: Job) -> Pair:
    """Run one case twice; the same in any process."""
    path, name, overrides, seed = job
    case = Case.of(name, overrides)
    learn = replace(
        case.scenario.learn,
        enabled=True,
        learning=False,
        authority_percent=100,
        authority_most_percent=100,
        compare_every_blocks=0,
    )
    shadow = replace(learn, authority_percent=0, authority_most_percent=0)
    seeded = replace(case.scenario, seed=seed)

    def make(scenario: Scenario, limits: Mapping[str, Limit]) -> Controller:
        return make_controller(scenario, limits, Path(path))

    baseline = play(replace(seeded, learn=shadow), make, case.trace)
    learned = play(replace(seeded, learn=learn), make, case.trace)
    period_seconds = seeded.control.period_ms / 1_000
    return Pair(
        case.scenario.name,
        seed,
        baseline.mean_reward,
        learned.mean_reward,
        baseline.over_limit_cycles * period_seconds,
        learned.over_limit_cycles * period_seconds,
        baseline.energy_joules,
        learned.energy_joules,
        baseline.frames_per_second,
        learned.frames_per_second,
        learned.proposed,
        learned.cycles,
    )


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Means, and intervals of the differences; an interval of a single pair is not invented (null)."""
    names = dict.fromkeys(pair.scenario for pair in pairs)
    rows = [{"scenario": name, **_means([pair for pair in pairs if pair.scenario == name])} for name in names]
    return {**_means(pairs), "pairs": [asdict(pair) for pair in pairs], "scenarios": rows}


def _means(pairs: Sequence[Pair]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("reward", "over_limit_seconds", "energy_joules", "frames_per_second"):
        before = [float(getattr(pair, f"{name}_baseline")) for pair in pairs]
        after = [float(getattr(pair, f"{name}_learned")) for pair in pairs]
        differences = [b - a for a, b in zip(before, after, strict=True)]
        low, high = interval(differences)
        found |= {
            f"{name}_baseline": sum(before) / len(before),
            f"{name}_learned": sum(after) / len(after),
            f"{name}_difference": sum(differences) / len(differences),
            f"{name}_difference_low": low,
            f"{name}_difference_high": high,
        }
    return found


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % percentile bootstrap interval of the mean; (None, None) for fewer than two values."""
    count = len(values)
    if count < 2:
        return None, None
    stream = Stream(0, "evaluate.bootstrap")
    means = sorted(sum(values[stream.below(count)] for _ in range(count)) / count for _ in range(RESAMPLES))
    tail = round(RESAMPLES * (1.0 - CONFIDENCE) / 2)
    return means[tail], means[-1 - tail]


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        output.print_json(result)
        return
    if options.quiet:
        return
    rows = []
    for row in [*result["scenarios"], {"scenario": "all", **result}]:
        low, high = row["reward_difference_low"], row["reward_difference_high"]
        rows.append((
            row["scenario"] + (" (trained on)" if row["scenario"] in result["trained_on"] else ""),
            f"{row['reward_baseline']:.3f}",
            f"{row['reward_learned']:.3f}",
            f"{row['reward_difference']:+.4f}" + ("" if low is None else f" ({low:+.4f} to {high:+.4f})"),
            f"{row['over_limit_seconds_baseline']:.1f} / {row['over_limit_seconds_learned']:.1f}",
            f"{row['energy_joules_baseline']:,.0f} / {row['energy_joules_learned']:,.0f}",
            f"{row['frames_per_second_baseline']:.1f} / {row['frames_per_second_learned']:.1f}",
        ))  # fmt: skip
    columns = ("scenario", "baseline", "learned", "difference (95 %)", "s over limit", "energy, J", "frames a second")
    output.print_table(f"Reward a cycle, {result['checkpoint']}", columns, rows)
