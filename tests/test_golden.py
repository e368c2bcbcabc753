"""The golden choice: planted ties and winners, what may not change it, its ends, and the same bits interpreted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from golden_samples import Distribution, fingerprint, kicks
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import NIGHTLY
from scipy import stats

from twin.fingerprint.golden import FEWEST_RUNS, count_best, golden, interval, width
from twin.fingerprint.scoring import DIMENSIONS, WEIGHTS, Candidate, figures_of, resample
from twin.kernels import MODE, stream_key_array

TRIALS = 100
ORDINARY = Distribution()
LUCK = Distribution(score_deviation=0.0, converging=0.5, ticks_deviation=0.0, correlation_deviation=0.0, white=1.0)
"""Only chance decides whether a run converges."""
compiled = pytest.mark.skipif(MODE != "numba", reason="hundreds of choices take too long interpreted")


def choose(distributions: Sequence[Distribution], runs: int, seeds: int = 4) -> list[dict[str, Any]]:
    """The choice in each of 100 trials, candidates being called a, b, c..."""
    answers = []
    for trial in range(TRIALS):
        random = np.random.default_rng(trial)
        drawn = {chr(ord("a") + i): one.draw(random, runs, seeds) for i, one in enumerate(distributions)}
        answers.append(golden(drawn, seed=trial))
    return answers


@compiled
@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        (ORDINARY, ORDINARY, 2),
        (ORDINARY, ORDINARY, 5),
        (ORDINARY, replace(ORDINARY, score=80.1), 2),
        (ORDINARY, replace(ORDINARY, ticks_deviation=820.0), 2),
        (ORDINARY, replace(ORDINARY, correlation=0.702), 2),
        (LUCK, LUCK, 2),
    ],
    ids=["same", "same five", "score 0.1 apart", "ticks 20 wider", "correlation 0.002 apart", "luck"],
)
@pytest.mark.parametrize("runs", [3, 20, 150])
def test_near_ties_are_ties(
    request: pytest.FixtureRequest, one: Distribution, other: Distribution, count: int, runs: int
) -> None:
    choices = choose([one] * (count - 1) + [other], runs)
    # No golden configuration for any other reason is no tie.
    ties = sum(1 for each in choices if each["golden"] is None and len(each["tie"]) >= 2)
    print(f"{request.node.name}: {ties} of {TRIALS} are ties")
    assert ties >= 0.9 * TRIALS


@compiled
@pytest.mark.parametrize(
    ("runs", "winner"),
    [
        (150, Distribution(score=84.0, ticks_deviation=500.0, correlation=0.76)),
        (150, Distribution(correlation=0.80)),
        (20, Distribution(score=90.0, converging=1.0, ticks_deviation=300.0, correlation=0.80, white=1.0)),
    ],
    ids=["150 runs, better in three", "150 runs, coupled better", "20 runs, better in five"],
)
@pytest.mark.parametrize("count", [2, 5] if NIGHTLY else [2])
def test_winners_are_found(request: pytest.FixtureRequest, runs: int, winner: Distribution, count: int) -> None:
    last = chr(ord("a") + count - 1)
    answers = [each["golden"] for each in choose([ORDINARY] * (count - 1) + [winner], runs)]
    found = answers.count(last)
    print(f"{request.node.name}: found in {found} of {TRIALS}, ties {answers.count(None)}")
    assert found >= 0.95 * TRIALS
    assert set(answers) <= {last, None}


def sample(names: str = "abcd", runs: int = 12) -> dict[str, Candidate]:
    random = np.random.default_rng(11)
    return {name: replace(ORDINARY, score=80.0 + 2 * i).draw(random, runs) for i, name in enumerate(names)}


def without_probability(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "probability_best"}


@settings(max_examples=20)
@given(st.integers(0, 1_000), st.integers(2, 5), st.sampled_from([0.0, 1.0, 4.0, 8.0]))
def test_who_leaves_changes_nothing_of_the_others(seed: int, count: int, step: float) -> None:
    random = np.random.default_rng(seed)
    candidates = {
        f"c{i}": replace(ORDINARY, score=60 + step * i, correlation=0.5).draw(random, 20) for i in range(count)
    }
    whole = golden(candidates, seed=seed, resamples=300)
    for leaving in candidates:
        rest = golden({name: one for name, one in candidates.items() if name != leaving}, seed=seed, resamples=300)
        kept = [without_probability(entry) for entry in whole["ranking"] if entry["name"] != leaving]
        assert [without_probability(entry) for entry in rest["ranking"]] == kept
        before = {entry["name"]: entry["probability_best"] for entry in whole["ranking"]}
        assert all(entry["probability_best"] >= before[entry["name"]] - 1e-9 for entry in rest["ranking"])
        if whole["golden"] not in (None, leaving):
            assert rest["golden"] == whole["golden"]


def test_the_order_of_candidates_and_runs_changes_nothing() -> None:
    candidates = sample()
    turned = {
        name: Candidate(candidates[name].runs[::-1], candidates[name].kicks[::-1]) for name in reversed(candidates)
    }
    assert golden(turned, resamples=200) == golden(candidates, resamples=200)


def test_another_seed_draws_other_resamples() -> None:
    one, other = (golden(sample(), seed=seed, resamples=200)["ranking"][0] for seed in (1, 2))
    assert one["total"] == other["total"]
    assert one["interval"] != other["interval"]


def test_the_answer_is_whole() -> None:
    found = golden(sample(), resamples=200)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["schema", "golden", "tie", "why", "lead", "seed", "resamples", "ranking"]
    totals = [entry["total"] for entry in found["ranking"]]
    assert totals == sorted(totals, reverse=True)
    assert sum(entry["probability_best"] for entry in found["ranking"]) == pytest.approx(1.0)
    for entry in found["ranking"]:
        parts = entry["dimensions"]
        assert tuple(parts) == DIMENSIONS
        assert sum(part["points"] for part in parts.values()) == pytest.approx(entry["total"])
        assert entry["interval"][0] <= entry["total"] <= entry["interval"][1]
        for name, part in parts.items():
            assert part["points"] == pytest.approx(100 * part["score"] * WEIGHTS[name])
            assert part["interval"][0] - 1e-9 <= part["score"] <= part["interval"][1] + 1e-9


@given(
    st.lists(
        st.builds(
            fingerprint,
            st.none() | st.floats(0, 100),
            st.none() | st.integers(0, 9_000),
            st.none() | st.floats(-1, 1),
            st.none() | st.floats(0, 5_000),
            st.none() | st.booleans(),
        ),
        min_size=1,
        max_size=9,
    ),
    st.integers(0, 2),
    st.sampled_from([0.0, 4.0, 32.0]),
)
def test_what_is_earned_and_what_is_lost_is_all_there_is(
    runs: list[dict[str, Any]], seeds: int, deepest: float
) -> None:
    """Each sentence of a justification: earned plus costs is what the dimension is worth."""
    entry = golden({"a": Candidate(runs, kicks(seeds, deepest))}, resamples=100)["ranking"][0]
    sentences = re.findall(r"(\w+) earns ([0-9.]+) of (\d+) points: (.*?)(?=\. [A-Z]|\.$)", entry["justification"])
    assert [name.lower() for name, *_ in sentences] == list(DIMENSIONS)
    for name, earned, worth, rest in sentences:
        costs = [float(cost) for cost in re.findall(r"costs ([0-9]+\.[0-9]+)", rest)]
        assert float(earned) == pytest.approx(entry["dimensions"][name.lower()]["points"], abs=0.0051)
        if name != "Basin" or seeds:
            assert float(earned) + sum(costs) == pytest.approx(float(worth), abs=0.021)
        else:
            assert rest == "nothing was kicked"


def test_exact_ties() -> None:
    same = Candidate([fingerprint()] * 10, kicks())
    found = golden({"b": same, "a": same, "c": Candidate([fingerprint(score=10.0)] * 10, kicks())})
    assert found["golden"] is None
    assert found["tie"] == ["a", "b"]
    assert [entry["name"] for entry in found["ranking"]] == ["a", "b", "c"]
    assert [entry["probability_best"] for entry in found["ranking"]] == pytest.approx([0.5, 0.5, 0.0], abs=0.03)
    assert found["why"].startswith("It is a tie: a and b are best with probabilities of ")
    assert found["lead"]["points"] == 0.0


def test_runs_that_never_differed_may_yet_differ() -> None:
    candidates = {"a": Candidate([fingerprint()] * 150), "b": Candidate([fingerprint(score=85.0)] * 150)}
    assert golden(candidates)["golden"] == "b"
    assert golden({**candidates, "b": Candidate([fingerprint(score=80.01)] * 150)})["tie"] == ["b", "a"]
    assert golden({name: Candidate(one.runs[:3]) for name, one in candidates.items()})["tie"] == ["b", "a"]


def test_no_candidate_and_one() -> None:
    nobody = golden({})
    assert (nobody["golden"], nobody["tie"], nobody["ranking"], nobody["lead"]) == (None, [], [], None)
    assert nobody["why"] == "There is no golden configuration: there is no candidate."
    alone = golden({"a": Candidate([fingerprint()] * 5)})
    assert alone["golden"] == "a"
    assert alone["why"] == "a is the only candidate; it was compared with nothing."


@pytest.mark.parametrize("runs", range(FEWEST_RUNS))
def test_too_few_runs_cannot_be_judged(runs: int) -> None:
    found = golden({"a": Candidate([fingerprint(score=99.0)] * 9), "b": Candidate([fingerprint()] * runs)})
    assert (found["golden"], found["tie"]) == (None, [])
    assert "cannot be judged: b has " in found["why"]
    last = found["ranking"][-1]
    assert last["name"] == "b"
    assert last["probability_best"] is None
    assert "fewer than 3 runs" in last["reasons"]["probability_best"]
    if runs < 2:
        assert last["interval"] is None
        assert last["reasons"]["interval"] == ("no run has no spread", "1 run has no spread")[runs]
    if runs == 0:
        assert last["total"] is last["dimensions"]["basin"]["score"] is None
        assert last["justification"] == "There is no run, so nothing can be said."


def test_nobody_converged() -> None:
    bad = Candidate([fingerprint(ticks=None, jitter_ns=None, white=None)] * 5)
    found = golden({"a": bad, "b": bad})
    assert (found["golden"], found["tie"]) == (None, [])
    assert found["why"] == "There is no golden configuration: no run of any candidate converged."


def test_what_is_too_short_to_tell_is_not_called_unconverged() -> None:
    reason = "the run has 3,000 ticks, and 10 blocks of 1,000 are needed"
    run = fingerprint(ticks=None, jitter_ns=None) | {"converged": None, "reasons": {"converged": reason}}
    short = Candidate([run] * 5)
    found = golden({"a": short, "b": short})
    assert (found["golden"], found["tie"]) == (None, [])
    assert found["why"] == (
        f"There is no golden configuration: it cannot be told whether runs converge, because {reason}."
    )
    assert (
        f"points: it cannot be told whether runs converge, because {reason}, which costs 25.00."
        in (found["ranking"][0]["justification"])
    )
    ahead = Candidate([run | {"overall_stability_score": 100.0, "load_to_heartbeat_corr": 1.0}] * 30)
    bad = Candidate([fingerprint(10.0, 3_000, 0.0)] + [fingerprint(0.0, None, 0.0)] * 29)
    assert "a is ahead, but it cannot be told whether runs converge" in golden({"a": ahead, "b": bad})["why"]


def test_who_never_converged_is_not_golden() -> None:
    bad = Candidate([fingerprint(score=10.0, ticks=3_000, correlation=0.0)] + [fingerprint(0.0, None, 0.0)] * 29)
    found = golden({"a": Candidate([fingerprint(100.0, None, 1.0)] * 30), "b": bad})
    assert (found["golden"], found["tie"]) == (None, [])
    assert found["why"] == "There is no golden configuration: a is ahead, but none of its runs converged."


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="resamples is 99; allowed are 100 and more"):
        golden({}, resamples=99)


@pytest.mark.parametrize("count", [5, 8, 20, 150])
def test_the_width_is_students(count: int) -> None:
    expected = (count / (count - 1)) ** 0.5 * stats.t.ppf(0.975, count - 1) / stats.norm.ppf(0.975)
    assert width(count) == pytest.approx(expected, rel=0.003)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50))
def test_intervals_are_percentiles(values: list[float]) -> None:
    assert interval(np.array(values)) == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-9)


def test_equals_share_the_best_place() -> None:
    best = np.zeros(3)
    count_best(np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [3.0, 3.0, 3.0]]), 1e-7, best)
    assert best.tolist() == pytest.approx([1 / 2 + 1 / 3, 1 / 2 + 1 + 1 / 3, 1 / 3])


def test_resamples_deviate_as_theory_says() -> None:
    """The share of white runs is a mean of zeros and ones: its resamples deviate by sqrt(p (1 - p) / n)."""
    runs = [fingerprint(jitter_ns=None, white=i % 4 > 0) for i in range(100)]
    figures = figures_of(Candidate(runs))
    drawn = np.zeros((20_000, len(DIMENSIONS)))
    resample(stream_key_array(1, "a"), stream_key_array(1, "b"), *figures, drawn)
    whites = 2 * drawn[:, DIMENSIONS.index("jitter")]
    share = 75 / 100.5  # with half a run imagined
    assert whites.mean() == pytest.approx(share, abs=0.002)
    assert whites.std() == pytest.approx((share * (1 - share) / 100) ** 0.5, rel=0.03)


def bits() -> str:
    """A choice to the last bit: the answer, and all that was drawn for it."""
    state = blake2b(digest_size=16)
    candidates = {**sample("ab", 9), "c": Candidate([fingerprint(ticks=None, jitter_ns=0.0)] * 3)}
    for name, candidate in candidates.items():
        drawn = np.zeros((100, len(DIMENSIONS)))
        resample(stream_key_array(1, name), stream_key_array(2, name), *figures_of(candidate), drawn)
        state.update(drawn.tobytes())
    state.update(json.dumps(golden(candidates, resamples=100)).encode())
    return state.hexdigest()


def test_compiled_and_interpreted_choose_the_same_to_the_last_bit() -> None:
    other = "python" if MODE == "numba" else "numba"
    done = subprocess.run(
        [sys.executable, "-c", "import test_golden; print(test_golden.bits())"],
        env={**os.environ, "TWIN_KERNELS": other, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == bits()
