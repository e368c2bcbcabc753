"""Scores of the golden choice: against their definitions, and that what gets better never costs points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from golden_samples import fingerprint, kicks
from hypothesis import assume, given
from hypothesis import strategies as st

from twin.fingerprint.configuration import KINDS, KickResult, ladders
from twin.fingerprint.scoring import (
    ALIKE_MICRO,
    ALIKE_TICKS,
    BASIN,
    CONVERGENCE,
    COUPLING,
    DIMENSIONS,
    JITTER,
    STABILITY,
    WEIGHTS,
    Candidate,
    alike,
    basin,
    figures_of,
    least_of_five,
    score,
)
from twin.kernels import Floats

ROUNDING = 1e-12

RUN = st.builds(
    fingerprint,
    st.none() | st.floats(0, 100),
    st.none() | st.integers(0, 20_000),
    st.none() | st.floats(-1, 1),
    st.none() | st.floats(0, 10_000),
    st.none() | st.booleans(),
)
RUNS = st.lists(RUN, min_size=1, max_size=12)
KICK = st.builds(
    lambda kind, seed, strength, ticks: KickResult(kind, seed, strength, ticks is not None, ticks),
    st.sampled_from(KINDS),
    st.integers(0, 2),
    st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]),
    st.none() | st.integers(0, 10_000),
)
KICKS = st.lists(KICK, max_size=30)


def scores(runs: Sequence[dict[str, Any]], kicked: Sequence[KickResult] = ()) -> Floats:
    return score(figures_of(Candidate(runs, kicked)))


def never_costs(before: Floats, after: Floats) -> None:
    assert (after >= before - ROUNDING).all(), dict(zip(DIMENSIONS, zip(before, after, strict=True), strict=True))


def changed(runs: list[dict[str, Any]], i: int, **fields: Any) -> list[dict[str, Any]]:
    return [*runs[:i], {**runs[i], **fields}, *runs[i + 1 :]]


def test_weights_add_up_to_1() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0, abs=1e-15)
    assert list(WEIGHTS.values()) == [0.30, 0.25, 0.20, 0.15, 0.10]


@given(RUNS, KICKS)
def test_scores_lie_in_0_to_1(runs: list[dict[str, Any]], kicked: list[KickResult]) -> None:
    found = scores(runs, kicked)
    assert ((found >= 0.0) & (found <= 1.0)).all()


def test_full_marks_and_none() -> None:
    best = [fingerprint(100.0, 40_000, 0.8, 7.0, True)] * 9
    assert scores(best, kicks(deepest=32.0, ticks=-0)).tolist()[:3] == [1.0, 1.0, 1.0]
    at_once = [replace(kick, return_ticks=0) for kick in kicks(deepest=32.0)]
    assert scores(best, at_once).tolist() == [1.0] * 5
    worst = [fingerprint(0.0, None, 0.2, None, False)] * 9
    assert scores(worst, kicks(deepest=0.0)).tolist() == [0.0] * 5
    assert scores([fingerprint(None, None, None, None, None)]).tolist() == [0.0] * 5


def test_without_spread_scores_are_shares() -> None:
    converging = [fingerprint()] * 75 + [fingerprint(ticks=None, jitter_ns=None, white=None)] * 25
    found = scores(converging)
    assert found[CONVERGENCE] == pytest.approx(math.sqrt(75 * 74 / (100 * 99)))
    assert found[JITTER] == pytest.approx(found[CONVERGENCE] / 2 + 0.75 / 2)
    assert found[COUPLING] == pytest.approx(0.5 / 0.6)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=6))
def test_the_least_of_five_is_the_mean_over_all_fives(weighted: list[tuple[float, int]]) -> None:
    weighted.sort()
    drawn = [value for value, count in weighted for _ in range(count)]
    assume(0 < len(drawn) <= 12)
    values = np.array([value for value, _ in weighted])
    counts = np.array([count for _, count in weighted], dtype=np.int64)
    fives = list(combinations(drawn, min(5, len(drawn))))
    found = least_of_five(values, np.arange(len(values)), counts, len(drawn))
    assert found == pytest.approx(sum(min(five) for five in fives) / len(fives), abs=1e-12)


def test_few_runs_are_worth_what_many_are() -> None:
    random = np.random.default_rng(8)
    for count in (5, 20):
        found = [
            least_of_five(np.sort(random.normal(80, 3, count)), np.arange(count), np.ones(count, dtype=np.int64), count)
            for _ in range(4_000)
        ]
        assert (80.0 - float(np.mean(found))) / 3.0 == pytest.approx(1.16296, abs=0.03)


def test_the_least_of_five_of_a_normal_distribution() -> None:
    values = np.sort(np.random.default_rng(5).normal(80.0, 3.0, 100_000))
    found = least_of_five(values, np.arange(100_000), np.ones(100_000, dtype=np.int64), 100_000)
    assert (80.0 - found) / 3.0 == pytest.approx(1.16296, abs=0.02)  # the expected least of five normal draws


@given(
    st.lists(st.tuples(st.none() | st.integers(-2_000, 2_000), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(1, 1_500),
    st.integers(0, 2),
)
def test_alike_is_the_mean_over_all_pairs(runs: list[tuple[int | None, int]], scale: int, imagined: int) -> None:
    runs = [*runs, (None, imagined)]
    assume(sum(count for _, count in runs) > 0)
    drawn = [i for i, (_, count) in enumerate(runs) for _ in range(count)]
    pairs = [(i, j) for i in drawn for j in drawn if i != j]
    total = 0.0
    for i, j in pairs:
        one, other = runs[i][0], runs[j][0]
        if one is not None and other is not None:
            total += max(0.0, 1.0 - abs(one - other) / scale)
    expected = math.sqrt(total / len(pairs)) if pairs else float(runs[drawn[0]][0] is not None)
    found = sorted((mark, i) for i, (mark, _) in enumerate(runs) if mark is not None)
    marks, owners = np.zeros(len(runs), dtype=np.int64), np.zeros(len(runs), dtype=np.int64)
    marks[: len(found)], owners[: len(found)] = [m for m, _ in found], [i for _, i in found]
    counts = np.array([count for _, count in runs[:-1]], dtype=np.int64)
    assert alike(marks, owners, len(found), scale, counts, len(drawn)) == pytest.approx(expected, abs=1e-12)


@given(RUNS, st.data())
def test_a_run_that_gets_better_never_costs(runs: list[dict[str, Any]], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(runs) - 1))
    before, run = scores(runs), runs[i]
    better = data.draw(st.floats(run["overall_stability_score"] or 0, 100))
    never_costs(before, scores(changed(runs, i, overall_stability_score=better)))
    coupled = data.draw(st.floats(-1 if run["load_to_heartbeat_corr"] is None else run["load_to_heartbeat_corr"], 1))
    never_costs(before, scores(changed(runs, i, load_to_heartbeat_corr=coupled)))
    never_costs(before, scores(changed(runs, i, jitter_is_white=True)))
    if not run["converged"]:
        ticks = data.draw(st.integers(0, 20_000))
        never_costs(before, scores(changed(runs, i, converged=True, convergence_time_ticks=ticks)))
    if run["avg_jitter_ns_steady"] is None:
        jitter = data.draw(st.floats(0, 10_000))
        never_costs(before, scores(changed(runs, i, avg_jitter_ns_steady=jitter)))


@given(RUNS, KICKS, st.data())
def test_a_kick_that_returns_or_returns_sooner_never_costs(
    runs: list[dict[str, Any]], kicked: list[KickResult], data: st.DataObject
) -> None:
    assume(kicked)
    i = data.draw(st.integers(0, len(kicked) - 1))
    before = kicked[i].return_ticks
    ticks = data.draw(st.integers(0, 20_000 if before is None else before))
    better = [*kicked[:i], replace(kicked[i], returned=True, return_ticks=ticks), *kicked[i + 1 :]]
    never_costs(scores(runs, kicked), scores(runs, better))


@given(st.lists(st.integers(0, 20_000), min_size=2, max_size=12), st.integers(0, 20_000), st.floats(0, 1))
def test_times_that_draw_together_never_cost(ticks: list[int], about: int, share: float) -> None:
    nearer = [about + round((time - about) * share) for time in ticks]
    before = scores([fingerprint(ticks=time) for time in ticks])
    after = scores([fingerprint(ticks=time) for time in nearer])
    # Ticks are integers: each may be rounded up by half of one.
    assert after[CONVERGENCE] ** 2 >= before[CONVERGENCE] ** 2 - 1 / ALIKE_TICKS - ROUNDING


@given(st.lists(st.floats(1, 10_000), min_size=2, max_size=12), st.floats(1, 10_000), st.floats(0, 1))
def test_jitters_that_draw_together_never_cost(jitters: list[float], about: float, share: float) -> None:
    nearer = [about * (jitter / about) ** share for jitter in jitters]
    before = scores([fingerprint(jitter_ns=jitter) for jitter in jitters])
    after = scores([fingerprint(jitter_ns=jitter) for jitter in nearer])
    assert (2 * after[JITTER] - 1) ** 2 >= (2 * before[JITTER] - 1) ** 2 - 2 / ALIKE_MICRO - 1e-9


@given(st.lists(st.floats(1, 1_000), min_size=2, max_size=12), st.sampled_from([2.0, 16.0, 1_024.0]))
def test_the_size_of_jitter_does_not_matter(jitters: list[float], factor: float) -> None:
    one = scores([fingerprint(jitter_ns=jitter) for jitter in jitters])[JITTER]
    other = scores([fingerprint(jitter_ns=jitter * factor) for jitter in jitters])[JITTER]
    assert (2 * other - 1) ** 2 == pytest.approx((2 * one - 1) ** 2, abs=4 / ALIKE_MICRO)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=12), st.data())
def test_spread_about_the_same_mean_never_earns(values: list[float], data: st.DataObject) -> None:
    low, high = sorted(data.draw(st.permutations(range(len(values))))[:2], key=lambda i: values[i])
    shift = data.draw(st.floats(0, min(values[low], 100.0 - values[high])))
    wider = list(values)
    wider[low], wider[high] = values[low] - shift, values[high] + shift
    before = scores([fingerprint(score=value) for value in values])
    after = scores([fingerprint(score=value) for value in wider])
    assert after[STABILITY] <= before[STABILITY] + ROUNDING


def test_a_late_last_run_is_better_than_none() -> None:
    """One less its deviation would give 0 for the late one."""
    early = [fingerprint(ticks=1_000)] * 149
    never, late = scores([*early, fingerprint(ticks=None)]), scores([*early, fingerprint(ticks=90_000)])
    assert never[CONVERGENCE] == late[CONVERGENCE] == pytest.approx(0.9933, abs=1e-4)


def test_the_basin_counts_depth_and_speed_of_the_weakest_kind() -> None:
    def worth(*rungs: tuple[str, float, int | None]) -> float:
        found = ladders(KickResult(kind, 1, sigmas, ticks is not None, ticks) for kind, sigmas, ticks in rungs)
        return basin(found[1])

    assert worth(("heat_burst", 32.0, 0)) == 1.0
    assert worth(("heat_burst", 64.0, 0)) == 1.0
    assert worth(("heat_burst", 16.0, 1_000), ("heat_burst", 32.0, None)) == 0.5 * 0.75
    assert worth(("heat_burst", 8.0, 0), ("heat_burst", 16.0, 3_000)) == (8 * 1.0 + 8 * 0.625) / 32
    assert worth(("heat_burst", 32.0, 0), ("load_pulse", 8.0, 0)) == 0.25
    assert worth(("heat_burst", 32.0, 0), ("load_pulse", 8.0, None)) == 0.0
    assert basin({}) == 0.0


@given(st.permutations(range(8)), st.permutations(range(24)))
def test_the_order_of_runs_and_kicks_changes_no_bit(order: list[int], kick_order: list[int]) -> None:
    random = np.random.default_rng(9)
    runs = [
        fingerprint(
            float(random.normal(80, 3)), int(random.integers(5_000)), None if i % 3 else 0.5, 100.0 * (1 + i % 2)
        )
        for i in range(8)
    ]
    tried = kicks(seeds=1)
    one = figures_of(Candidate(runs, tried))
    other = figures_of(Candidate([runs[i] for i in order], [tried[i] for i in kick_order]))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
    assert DIMENSIONS.index("basin") == BASIN
