"""The fingerprint of a whole run: fields and reasons, scores, the same bits compiled and interpreted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fingerprint_samples import WORDS, answering, anything, busy, dealt, digest_of
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.fingerprint.run import FIELDS, METRICS, SCORES, TICK_FIELDS, run_fingerprint
from twin.fingerprint.series import rounded
from twin.heart import ticks
from twin.record.derived import METRICS as STORED_METRICS

MACHINE: dict[str, Any] = {
    "ticks": 7, "cycles": 3, "energy_joules": 1 / 3, "max_temp_millicelsius": 61_000, "time_over_limit_ns": 0,
    "throttle_ratio": 0.25, "failsafe_ratio": 0.0, "fps_mean": None, "latency_p99_us": None,
    "reasons": {"fps_mean": "no frame rate was ever read", "latency_p99_us": "no frame latency was ever read"},
}  # fmt: skip

GOLDEN = "6d604b55d0f068b1"
"""The digest of a fingerprint. One that changes without need is a fault; with need, it belongs into CHANGELOG.md."""


def fingerprint(captured: np.ndarray | None, **machine: Any) -> dict[str, Any]:
    return run_fingerprint(captured, WORDS, {**MACHINE, **machine})


def check(found: dict[str, Any]) -> None:
    """What holds for every fingerprint."""
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert list(found)[: len(FIELDS) + 1] == ["schema", *FIELDS]
    assert list(found)[-1] == "reasons"
    for name, value in found.items():
        if name not in ("schema", "reasons"):
            assert (value is None) == (name in found["reasons"]), name
            assert value is None or type(value) in (bool, int, float, list), name
    assert set(found["reasons"]) <= set(found)
    for name in SCORES:
        assert found[name] is None or 0.0 <= found[name] <= 100.0
    for name in FIELDS:
        value = found[name]
        if value is None:
            continue
        if name.endswith("_corr"):
            assert -1.0 <= value <= 1.0
            assert 0 <= found[name.replace("_corr", "_lag_ticks")] <= 50
        if name.endswith(("_ratio", "_p")) or name in ("spectral_entropy", "metric_noise_coupling"):
            assert 0.0 <= value <= 1.0
        if name.endswith(("_cv", "_ticks", "_ns", "_percent", "_steady")) or name == "dominant_frequency_hz":
            assert value >= 0.0
        if name.startswith(("cache_hit_percent", "bucket_hit_percent")):
            assert value <= 100.0
    if found["metric_correlation_matrix"] is not None:
        matrix = found["metric_correlation_matrix"]
        assert [len(row) for row in matrix] == [7] * 7
        assert all(matrix[i][j] == matrix[j][i] for i in range(7) for j in range(7))
        assert all(r is None or -1.0 <= r <= 1.0 for row in matrix for r in row)
        assert {matrix[i][i] for i in range(7)} <= {1.0, None}
    if found["dominant_eigenvalue"] is not None:
        assert 1.0 <= found["dominant_eigenvalue"] <= 7.0


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 999, 1_000, 1_024, 2_999, 3_000, 9_999, 10_000, 11_000]))
@settings(max_examples=120)
def test_whatever_the_ticks_each_field_has_a_value_or_a_reason(seed: int, count: int) -> None:
    check(fingerprint(anything(seed, count)))


def test_a_busy_run_knows_everything() -> None:
    found = fingerprint(busy(20_000), fps_mean=59.5, latency_p99_us=12_345, reasons={})
    check(found)
    assert found["reasons"] == {}
    assert found["converged"] is True
    assert found["latency_p99_ns"] == 12_345_000
    assert found["latency_p99_us"] == 12_345
    assert found["energy_joules"] == 0.333333333
    assert (found["ticks"], found["cycles"]) == (7, 3)


def test_the_machine_s_reasons_go_along() -> None:
    found = fingerprint(busy(1_000))
    assert found["reasons"]["fps_mean"] == "no frame rate was ever read"
    assert found["reasons"]["latency_p99_ns"] == found["reasons"]["latency_p99_us"] == "no frame latency was ever read"
    check(found)
    nothing = run_fingerprint(busy(10), WORDS, {})
    assert nothing["reasons"]["energy_joules"] == "nothing told it"


def test_a_run_with_too_many_ticks_has_the_machine_s_part() -> None:
    found = fingerprint(None)
    check(found)
    assert all(found[name] is None for name in (*TICK_FIELDS, *SCORES))
    assert "10,000,000 ticks" in found["reasons"]["converged"]
    assert found["max_temp_millicelsius"] == 61_000
    with pytest.raises(ValueError, match="15 are needed"):
        run_fingerprint(np.zeros((4, 9), dtype=np.int64), WORDS, {})


def test_the_figures_of_a_made_up_run_are_those_it_was_made_with() -> None:
    captured = answering(30_000)
    found = fingerprint(captured)
    steady = slice(found["convergence_time_ticks"], None)
    assert found["convergence_time_ticks"] == 0
    assert found["convergence_hold_ratio"] == 1.0
    hits = captured[ticks.C_CACHE_HITS] / 2.0
    assert found["cache_hit_percent_steady"] == pytest.approx(hits[steady].mean(), rel=1e-8)
    assert found["bucket_hit_percent_steady"] == pytest.approx(100 - hits[steady].mean(), rel=1e-8)
    # Binomial: sqrt(p (1 - p) / n) / p.
    assert found["cache_convergence_cv"] == pytest.approx(math.sqrt(0.9 * 0.1 / 200) / 0.9, rel=0.03)
    assert (found["decay_convergence_cv"], found["window_convergence_cv"]) == (0.0, 0.0)
    # The mean distance of two exponential-sums: for a gamma of shape 2 it is 1.5 scales.
    assert found["avg_jitter_ns_steady"] == pytest.approx(7_500, rel=0.02)
    assert found["hotword_ratio_steady"] == pytest.approx(60 / WORDS, rel=0.01)
    assert found["load_to_heartbeat_lag_ticks"] == 5
    assert found["load_to_heartbeat_corr"] > 0.99
    assert abs(found["load_to_cache_corr"]) < 0.05
    assert found["jitter_is_white"] is True
    assert found["jitter_is_normal"] is False
    assert found["metric_correlation_matrix"][METRICS.index("window_width")] == [None] * 7
    assert (
        found["metric_correlation_matrix"][1][2] == -1.0
    )  # of 200 words, those not found in one tier are in the other
    interval = captured[ticks.C_PASSED].mean()
    share = np.abs(captured[ticks.C_PASSED] - captured[ticks.C_ASKED]).mean() / interval
    assert found["jitter_score"] == pytest.approx(100 * (1 - share / 0.35), rel=1e-8)
    assert found["convergence_score"] == found["coupling_score"] == 100.0
    assert found["overall_stability_score"] == pytest.approx((found["jitter_score"] + 200) / 3, rel=1e-8)


def test_converging_early_and_holding_count_alike() -> None:
    captured = answering(30_000)
    noisy = np.isin(np.arange(30_000) // 1_000, (0, 1, 2, 15, 16, 17, 18, 25))
    captured[ticks.C_CACHE_HITS, noisy] = np.where(np.arange(noisy.sum()) % 2, 80, 200)
    captured[ticks.C_BUCKET_HITS] = 200 - captured[ticks.C_CACHE_HITS]
    found = fingerprint(captured)
    # Blocks 3 to 12 made it steady; 12 of the 17 after that are quiet.
    assert found["convergence_time_ticks"] == 3_000
    assert found["convergence_hold_ratio"] == pytest.approx(12 / 17, rel=1e-8)
    assert found["convergence_score"] == pytest.approx(50 * 0.9 + 50 * 12 / 17, rel=1e-8)


def test_metrics_are_those_of_the_derived_columns() -> None:
    assert tuple(name.replace("heat_total_q48", "avg_word_heat") for name in STORED_METRICS) == METRICS


@pytest.mark.parametrize("seed", range(6))
def test_a_heartbeat_that_does_not_adapt_earns_nothing_for_coupling(seed: int) -> None:
    captured = answering(20_000, adapt=False, seed=seed)
    found = fingerprint(captured)
    assert abs(found["load_to_heartbeat_corr"]) < 0.2
    assert found["coupling_score"] == 0.0
    # Not even when nothing is ever late, so that there is no correlation to speak of.
    captured[ticks.C_PASSED] = captured[ticks.C_ASKED]
    found = fingerprint(captured)
    assert found["reasons"]["load_to_heartbeat_corr"] == "the interval does not vary"
    assert found["coupling_score"] == 0.0
    assert found["overall_stability_score"] == pytest.approx((found["jitter_score"] + found["convergence_score"]) / 3)
    check(found)


def test_a_load_that_does_not_vary_or_is_not_known_says_nothing_about_coupling() -> None:
    captured = answering(20_000)
    captured[ticks.C_LOAD] = 300_000
    found = fingerprint(captured)
    assert found["coupling_score"] is None
    assert (
        found["reasons"]["coupling_score"] == "the load does not vary; the overall score is the mean of the other two"
    )
    assert found["overall_stability_score"] == pytest.approx((found["jitter_score"] + found["convergence_score"]) / 2)
    captured[ticks.C_LOAD, ::2] = ticks.UNKNOWN_LOAD
    found = fingerprint(captured)
    assert found["reasons"]["load_to_cache_corr"] == "the load is not known in 10,000 of 20,000 ticks"
    assert found["coupling_score"] is None
    assert found["heartbeat_to_cache_corr"] is not None
    # Unknown at first is no harm.
    captured = answering(20_000)
    captured[ticks.C_LOAD, :300] = ticks.UNKNOWN_LOAD
    assert fingerprint(captured)["coupling_score"] == 100.0


def test_a_run_that_never_becomes_steady_scores_for_coupling_alone() -> None:
    captured = answering(20_000)
    captured[ticks.C_CACHE_HITS] = np.where(np.arange(20_000) % 2, 50, 150)
    captured[ticks.C_BUCKET_HITS] = 200 - captured[ticks.C_CACHE_HITS]
    found = fingerprint(captured)
    check(found)
    assert found["converged"] is False
    assert found["convergence_time_ticks"] is None
    assert "did not converge" in found["reasons"]["cache_hit_percent_steady"]
    assert (found["jitter_score"], found["convergence_score"], found["coupling_score"]) == (0.0, 0.0, 100.0)
    assert found["overall_stability_score"] == 33.3333333


def test_a_run_that_is_too_short_has_no_score() -> None:
    found = fingerprint(answering(9_999))
    check(found)
    assert found["converged"] is None
    assert found["reasons"]["overall_stability_score"] == "the run has 9,999 ticks; 10 blocks of 1,000 are needed"
    assert found["coupling_score"] == 100.0
    for count in (10_000, 11_000):
        assert fingerprint(answering(count))["converged"] is True
    assert "no block comes after" in fingerprint(answering(10_000))["reasons"]["convergence_hold_ratio"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=20)
def test_hours_or_days_the_shape_is_the_same(seed: int, power: int) -> None:
    """Every time twice as long: figures without a unit stay, times double, frequencies halve."""
    captured = answering(10_000, seed=seed)
    slow = captured.copy()
    for column in (ticks.C_ASKED, ticks.C_PASSED, ticks.C_ELAPSED, ticks.C_LATENESS):
        slow[column] *= 2**power
    one, other = fingerprint(captured), fingerprint(slow)
    for name in FIELDS:
        factor = 2.0**power if name == "avg_jitter_ns_steady" else 2.0**-power if name.endswith("_hz") else 1.0
        if isinstance(one[name], float):
            assert other[name] == pytest.approx(one[name] * factor, rel=1e-6), name
        elif not isinstance(one[name], list):
            assert other[name] == one[name], name


def test_ticks_may_lie_anywhere_in_memory() -> None:
    captured = busy(11_000)
    wide = np.zeros((ticks.COLUMNS, 30_000), dtype=np.int64)
    wide[:, 777:11_777] = captured
    before = wide.copy()
    expected = fingerprint(captured)
    assert fingerprint(wide[:, 777:11_777]) == expected
    assert fingerprint(np.asfortranarray(captured)) == expected
    assert (wide == before).all()


def test_the_same_bits_compiled_and_interpreted() -> None:
    program = Path(__file__).parent / "fingerprint_samples.py"
    said = []
    for mode in ("numba", "python"):
        environment = {**os.environ, "TWIN_KERNELS": mode, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "error", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout)
    assert said[0] == said[1]
    assert len(set(said[0].split())) == 14


def test_the_same_bits_on_every_machine() -> None:
    found = fingerprint(dealt(15_000))
    check(found)
    assert found["converged"] is True
    assert digest_of(found) == GOLDEN, found


def test_nine_digits_leave() -> None:
    assert rounded(math.pi * 1e20) == 3.14159265e20
    assert rounded([1 / 3, None, 5, True]) == [0.333333333, None, 5, True]
    assert rounded(123_456_789_123) == 123_456_789_123
    assert math.copysign(1.0, rounded(-0.0)) == 1.0
