"""What fingerprints are for: telling a heartbeat that answers the load from one that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twin.cli.evaluate import interval
from twin.cli.simulate import simulate
from twin.experiment.plan import load_plan
from twin.fingerprint.golden import golden
from twin.fingerprint.scoring import Candidate

SEEDS = 8


@pytest.fixture(scope="module")
def runs() -> dict[str, list[dict]]:
    """The candidates of the demonstration, a few short runs each, the same seeds for all."""
    plan = load_plan("demo", ["ticks=15000"])
    return {
        each.name: [
            simulate(replace(each.scenario, seed=seed)).fingerprint(each.scenario.heartbeat.words)
            for seed in range(1, SEEDS + 1)
        ]
        for each in plan.candidates
    }


def test_the_adaptive_law_beats_the_reference_in_coupling(runs: dict[str, list[dict]]) -> None:
    adaptive, reference = runs["1_0_1_1_1_0"], runs["reference"]
    for field in ("load_to_heartbeat_corr", "coupling_score"):
        differences = [a[field] - b[field] for a, b in zip(adaptive, reference, strict=True)]
        low, high = interval(differences)
        print(f"{field}: adaptive minus reference {low:.3f} to {high:.3f} (95 %, {SEEDS} seeds)")
        assert low is not None
        assert low > 0.0


@pytest.mark.parametrize("name", ["without_L7", "all_loops_off"])
def test_a_heartbeat_without_l7_earns_nothing_for_coupling(runs: dict[str, list[dict]], name: str) -> None:
    assert {run["coupling_score"] for run in runs[name]} == {0.0}
    choice = golden({each: Candidate(fingerprints, []) for each, fingerprints in runs.items()})
    entry = next(each for each in choice["ranking"] if each["name"] == name)
    print(f"{name}: rank {choice['ranking'].index(entry) + 1}, {entry['total']} points")
    assert entry["dimensions"]["coupling"]["points"] == 0.0
    assert choice["golden"] != name


def test_a_coupled_heartbeat_earns_full_marks_for_it(runs: dict[str, list[dict]]) -> None:
    for name in ("1_0_1_1_1_0", "1_0_1_1_1_1", "1_1_0_1_1_1", "1_0_1_0_1_0", "0_1_1_0_1_1"):
        for run in runs[name]:
            assert run["load_to_heartbeat_corr"] >= 0.8
            assert run["load_to_heartbeat_lag_ticks"] <= 50
