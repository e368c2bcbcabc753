"""Configuration fingerprints: against another library, at their ends, and where figures are missing."""

from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np
import pytest
from golden_samples import Distribution, fingerprint, kicks
from hypothesis import given
from hypothesis import strategies as st

from twin.fingerprint.configuration import KickResult, configuration_fingerprint, ladders

FIELDS = (
    "schema", "runs", "score_mean", "score_std", "score_cv", "convergence_time_mean_ticks",
    "convergence_time_std_ticks", "convergence_success_rate", "load_to_heartbeat_corr_mean",
    "load_to_heartbeat_corr_std", "coupling_is_stable", "jitter_mean_ns", "jitter_std_ns", "jitter_cv", "white_ratio",
    "noise_coupling_mean", "entropy_growth_mean", "eigenmode_decay_rate_hz_mean", "basin_depth_sigmas",
    "basin_return_ticks", "reasons",
)  # fmt: skip


def drawn(runs: int = 40) -> list[dict[str, Any]]:
    return list(Distribution().draw(np.random.default_rng(3), runs).runs)  # type: ignore[arg-type]


def test_it_has_every_field_and_can_be_written_as_json() -> None:
    found = configuration_fingerprint(drawn(), kicks())
    assert tuple(found) == FIELDS
    assert found["reasons"] == {}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_means_and_deviations_are_those_of_another_library() -> None:
    runs = drawn()
    found = configuration_fingerprint(runs)
    for source, name, end in (
        ("overall_stability_score", "score", ""),
        ("convergence_time_ticks", "convergence_time", "_ticks"),
        ("load_to_heartbeat_corr", "load_to_heartbeat_corr", ""),
        ("avg_jitter_ns_steady", "jitter", "_ns"),
    ):
        values = [float(run[source]) for run in runs if run[source] is not None]
        assert found[f"{name}_mean{end}"] == pytest.approx(statistics.fmean(values), rel=1e-8)
        assert found[f"{name}_std{end}"] == pytest.approx(statistics.stdev(values), rel=1e-8)
    assert found["score_cv"] == pytest.approx(found["score_std"] / found["score_mean"], rel=1e-8)
    assert found["jitter_cv"] == pytest.approx(found["jitter_std_ns"] / found["jitter_mean_ns"], rel=1e-8)
    assert found["convergence_success_rate"] == pytest.approx(sum(run["converged"] for run in runs) / 40)
    assert found["white_ratio"] == pytest.approx(sum(run["jitter_is_white"] is True for run in runs) / 40)


@given(st.permutations(range(12)))
def test_the_order_of_runs_changes_no_bit(order: list[int]) -> None:
    runs = drawn(12)
    assert configuration_fingerprint([runs[i] for i in order], kicks()) == configuration_fingerprint(
        runs, kicks()[::-1]
    )


@given(st.floats(-1e6, 1e6), st.integers(2, 40))
def test_equal_runs_have_exactly_their_value_and_no_deviation(score: float, count: int) -> None:
    found = configuration_fingerprint([fingerprint(score)] * count)
    assert found["score_mean"] == float(f"{score:.9g}")
    assert found["score_std"] == 0.0


def test_no_run_no_figure() -> None:
    found = configuration_fingerprint([])
    assert found["runs"] == 0
    assert all(value is None for field, value in found.items() if field not in ("schema", "runs", "reasons"))
    assert set(found["reasons"]) == set(FIELDS) - {"schema", "runs", "reasons"}
    assert found["reasons"]["score_mean"] == "there is no run"
    assert found["reasons"]["basin_depth_sigmas"] == "nothing was kicked"


def test_one_run_has_no_deviation() -> None:
    found = configuration_fingerprint([fingerprint()])
    assert found["score_mean"] == 80.0
    assert found["score_std"] is found["score_cv"] is found["coupling_is_stable"] is None
    assert found["reasons"]["score_std"] == "only one run has overall_stability_score"
    assert found["reasons"]["coupling_is_stable"] == "only one run has load_to_heartbeat_corr"


def test_runs_that_did_not_converge() -> None:
    runs = [fingerprint(ticks=None, jitter_ns=None, white=None) for _ in range(3)]
    runs[0]["reasons"] = {"convergence_time_ticks": "the run did not converge: 12 blocks"}
    found = configuration_fingerprint(runs)
    assert found["convergence_success_rate"] == 0.0
    assert found["convergence_time_mean_ticks"] is found["white_ratio"] is found["jitter_cv"] is None
    reason = "no run has convergence_time_ticks (the run did not converge: 12 blocks)"
    assert found["reasons"]["convergence_time_mean_ticks"] == reason


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf"), "80", True])
def test_what_is_no_finite_number_is_missing(strange: Any) -> None:
    found = configuration_fingerprint([fingerprint(), fingerprint(), fingerprint(score=strange)])
    assert found["score_mean"] == 80.0
    json.dumps(found, allow_nan=False)


def test_a_mean_of_0_has_no_cv() -> None:
    found = configuration_fingerprint([fingerprint(score=-1.0), fingerprint(score=1.0)])
    assert found["score_cv"] is None
    assert found["reasons"]["score_cv"] == "the mean of overall_stability_score is 0"


@pytest.mark.parametrize(
    ("correlations", "stable"),
    [
        ([0.85, 0.86, 0.87], True),
        ([0.79, 0.79, 0.79], False),
        ([0.7, 0.9, 0.99], False),
        ([0.85, 0.86, None], False),
    ],
)
def test_coupling_is_stable_when_every_run_has_it(correlations: list[float | None], stable: bool) -> None:
    runs = [fingerprint(correlation=value) for value in correlations]
    assert configuration_fingerprint(runs)["coupling_is_stable"] is stable


def ladder(kind: str, seed: int, *rungs: tuple[float, int | None]) -> list[KickResult]:
    return [KickResult(kind, seed, strength, ticks is not None, ticks) for strength, ticks in rungs]


def test_the_basin_is_as_deep_as_its_weakest_kind() -> None:
    tried = [
        *ladder("heat_burst", 1, (1, 10), (2, 20), (4, 30), (8, None)),
        *ladder("load_pulse", 1, (1, 10), (2, 700), (4, None), (8, 5)),
        *ladder("heat_burst", 2, (1, 100), (2, 50), (4, 900), (8, 100)),
    ]
    found = configuration_fingerprint([], tried)
    assert found["basin_depth_sigmas"] == (2 + 8) / 2
    assert found["basin_return_ticks"] == (700 + 100) / 2


def test_a_kick_that_did_not_return_every_time_did_not_return() -> None:
    tried = ladder("heat_burst", 1, (1, 10), (1, 30), (2, 20), (2, None))
    assert ladders(tried) == ladders(tried[::-1]) == {1: {"heat_burst": [(1.0, 30)]}}


def test_a_basin_without_depth() -> None:
    found = configuration_fingerprint([], ladder("heat_burst", 1, (1, None), (2, 20)))
    assert found["basin_depth_sigmas"] == 0.0
    assert found["basin_return_ticks"] is None
    assert found["reasons"]["basin_return_ticks"] == "no kick returned"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("heat", 1, 1.0, True, 1), "kind is 'heat'; allowed are heat_burst, load_pulse"),
        (("heat_burst", 1, 0.0, True, 1), "strength_sigmas is 0.0; allowed are finite numbers above 0"),
        (("heat_burst", 1, float("nan"), True, 1), "strength_sigmas is nan"),
        (("heat_burst", 1, 1.0, True, -1), "return_ticks is -1; allowed are 0 and more, or None"),
        (("heat_burst", 1, 1.0, True, None), "a kick that returned has ticks"),
        (("heat_burst", 1, 1.0, False, 7), "one that did not has None"),
    ],
)
def test_kicks_that_cannot_be_are_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        KickResult(*arguments)
