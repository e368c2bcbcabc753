"""What the learner may propose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import LIMITS, SCENARIO

from twin.learn.actions import Proposals
from twin.scenario import ACTIONS

PROPOSALS = Proposals(SCENARIO, LIMITS)
FANS = {f"{fan.name}_pwm" for fan in SCENARIO.machine.fans}
baselines = st.fixed_dictionaries({name: st.integers(limit.minimum, limit.maximum) for name, limit in LIMITS.items()})
authorities = st.sampled_from([0, 10, 50, 100])


@given(baselines, st.sampled_from(ACTIONS), authorities)
def test_a_proposal_stays_within_limits_and_is_made_of_ints(
    baseline: dict[str, int], action: str, percent: int
) -> None:
    command = PROPOSALS.command(action, baseline, percent)
    assert command.keys() == LIMITS.keys()
    for name, value in command.items():
        assert type(value) is int
        assert LIMITS[name].minimum <= value <= LIMITS[name].maximum


@given(baselines, st.sampled_from(ACTIONS), authorities)
def test_fans_are_never_slowed_and_only_boost_raises_a_cap(baseline: dict[str, int], action: str, percent: int) -> None:
    command = PROPOSALS.command(action, baseline, percent)
    for name, value in command.items():
        if name in FANS:
            assert value >= baseline[name]
        elif action != "boost":
            assert value <= baseline[name]
            assert value >= min(baseline[name], LIMITS[name].safe)


@given(baselines, st.sampled_from(ACTIONS))
def test_authority_is_a_share_of_the_way(baseline: dict[str, int], action: str) -> None:
    full = PROPOSALS.command(action, baseline, 100)
    assert PROPOSALS.command(action, baseline, 0) == baseline
    for percent in (10, 50):
        part = PROPOSALS.command(action, baseline, percent)
        for name, start in baseline.items():
            way = full[name] - start
            assert part[name] - start == (abs(way) * percent // 100) * (1 if way >= 0 else -1)


@given(baselines, st.sampled_from(ACTIONS), authorities)
def test_noop_is_the_baseline(baseline: dict[str, int], action: str, percent: int) -> None:
    assert PROPOSALS.command("noop", baseline, percent) == baseline


@given(baselines, st.sampled_from(ACTIONS))
def test_what_was_executed_is_found_again(baseline: dict[str, int], action: str) -> None:
    command = PROPOSALS.command(action, baseline, 100)
    found = ACTIONS[PROPOSALS.nearest(command, baseline, 100)]
    # An action that means the same command here is as good.
    if found != action:
        assert all(
            abs(PROPOSALS.command(found, baseline, 100)[name] - command[name]) * 1_000
            < LIMITS[name].maximum - LIMITS[name].minimum
            for name in LIMITS
        )


def test_by_hand() -> None:
    baseline = {name: limit.maximum for name, limit in LIMITS.items()} | dict.fromkeys(FANS, 100)
    clocks = SCENARIO.machine.cpu.frequencies_kilohertz
    throttled = PROPOSALS.command("throttle", baseline, 100)
    assert throttled == {**baseline, "cpu_max_kilohertz": clocks[-3]}
    reduced = PROPOSALS.command("reduce_power", baseline, 100)
    limit = LIMITS["cpu_power_limit_microwatts"]
    assert reduced["cpu_power_limit_microwatts"] == limit.maximum - (limit.maximum - limit.safe) // 4
    assert reduced["cpu_max_kilohertz"] == baseline["cpu_max_kilohertz"]
    careful = PROPOSALS.command("conservative", baseline, 100)
    assert all(careful[name] == 196 for name in FANS)
    assert careful["cpu_power_limit_microwatts"] == limit.maximum - (limit.maximum - limit.safe) * 2 // 4
    low = {name: limit.safe for name, limit in LIMITS.items()} | dict.fromkeys(FANS, 100)
    boosted = PROPOSALS.command("boost", low, 100)
    assert boosted == {name: 148 if name in FANS else limit.maximum for name, limit in LIMITS.items()}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_cap_below_safe_is_left_alone(action: str) -> None:
    baseline = {name: limit.minimum for name, limit in LIMITS.items()} | dict.fromkeys(FANS, 100)
    command = PROPOSALS.command(action, baseline, 100)
    for name in LIMITS.keys() - FANS:
        assert command[name] == (LIMITS[name].maximum if action == "boost" else LIMITS[name].minimum)
