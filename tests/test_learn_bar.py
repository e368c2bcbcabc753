"""What training is worth: better than the baseline where it was not trained, and never longer over a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running import here, quick, run, shipped_scenario
from test_learn_optimizer import learning, limits

from twin.control.rules import RulesPid
from twin.kernels import MODE
from twin.learn.optimizer import Optimizer

pytestmark = pytest.mark.skipif(MODE != "numba", reason="interpreted, training takes too long")

TRAINED_ON = ("gaming", "burst", "soak", "hot_ambient", "steps", "fan_failure")
OTHERS = ("esports", "render", "idle", "recorded", "sensor_faults")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "weights"
    here("train", *TRAINED_ON, "--seeds", 4, "--out", path)
    return path


def test_a_trained_policy_is_better_where_it_was_not_trained(trained: Path) -> None:
    result = here("evaluate", trained, *OTHERS, "--seeds", 4)
    for row in [*result["scenarios"], {"scenario": "all", **result}]:
        print(told(row))
    assert not set(OTHERS) & set(result["trained_on"])
    assert min(pair["seed"] for pair in result["pairs"]) > 4
    assert result["reward_difference_low"] > 0
    for row in result["scenarios"]:
        assert row["reward_difference_high"] >= 0, row["scenario"]
        assert row["over_limit_seconds_learned"] <= row["over_limit_seconds_baseline"], row["scenario"]


def told(row: dict[str, Any]) -> str:
    low, high = row["reward_difference_low"], row["reward_difference_high"]
    return (
        f"{row['scenario']:13} reward {row['reward_baseline']:.3f} {row['reward_learned']:.3f} "
        f"{row['reward_difference']:+.4f} ({low:+.4f} to {high:+.4f}) "
        f"over {row['over_limit_seconds_baseline']:.1f} {row['over_limit_seconds_learned']:.1f} s, "
        f"{row['energy_joules_baseline']:,.0f} {row['energy_joules_learned']:,.0f} J, "
        f"{row['frames_per_second_baseline']:.1f} {row['frames_per_second_learned']:.1f} frames a second"
    )


def test_eight_bits_choose_the_same_in_99_of_100_states(trained: Path) -> None:
    same = states = 0
    met: set[str] = set()
    for name in ("gaming", "burst", "hot_ambient", "esports", "render", "sensor_faults"):
        chosen = []
        for quantised in (False, True):
            scenario = learning(name, 600, learning=False, quantised=quantised, authority_percent=0,
                                authority_most_percent=0)  # fmt: skip
            kept = run(scenario, Optimizer(scenario, limits(), RulesPid(scenario, limits()), trained))
            chosen.append([cycle.learned.proposed for cycle in kept.cycles if cycle.learned])
        alike = sum(a == b for a, b in zip(*chosen, strict=True))
        print(f"{name}: {alike} of {len(chosen[0])} states, {', '.join(sorted(set(chosen[0])))}")
        same, states, met = same + alike, states + len(chosen[0]), met | set(chosen[0])
    print(f"all: {100 * same / states:.2f} % of {states} states")
    assert len(met) >= 3, "a policy that always does the same would prove nothing"
    assert same >= 0.99 * states


def test_the_limits_hold_at_the_plug(trained: Path) -> None:
    """With the trained policy at full authority the world itself, which no sensor shows, stays below its limits."""
    scenario = learning("render", 600, learning=False)
    kept = run(scenario, Optimizer(scenario, limits(), RulesPid(scenario, limits()), trained))
    assert any(cycle.decision.source == "neural" for cycle in kept.cycles)
    sensors = quick(shipped_scenario("render")).machine.sensors
    assert all(true[sensor.node] <= sensor.limit_celsius for true in kept.true_celsius for sensor in sensors)
