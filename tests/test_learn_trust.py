"""Runs in which each reason against the learner comes up: it is not followed, and it loses its authority."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from running import FullCooling, Kept, quick, run, shipped_scenario
from strategies import LIMITS, SCENARIO
from test_learn_madness import AlwaysBoost, RoughLateness, hostile, room
from test_safety import hottest

from hardware.simulated import SimulatedHardware
from twin.cli.backends import simulated
from twin.clock import VirtualEnvironment
from twin.control.foresight import Foresight
from twin.control.rules import RulesPid
from twin.control.shield import Verdict
from twin.control.view import Decision, Learned, View
from twin.learn import replay
from twin.learn.brain import Thought
from twin.learn.optimizer import Optimizer
from twin.learn.policy import Policy
from twin.learn.reward import StandardReward
from twin.loop import Loop
from twin.scenario import ACTIONS, Learn, RandomFaults, Scenario
from twin.wiring import wiring
from twin.world.world import World

THROTTLE, BOOST, REDUCE = (ACTIONS.index(name) for name in ("throttle", "boost", "reduce_power"))


def learning(name: str, cycles: int, **changes: Any) -> Scenario:
    learn = Learn(**{"enabled": True, "authority_percent": 100, "compare_every_blocks": 0, **changes})
    return quick(shipped_scenario(name), learn=learn, duration_ms=cycles * 100)


class NoFans(RulesPid):
    """Asks less of its fans than the shield lets it."""

    def decide(self, view: View) -> Decision:
        decision = super().decide(view)
        return decision._replace(command={**decision.command, **dict.fromkeys(("cpu_fan_pwm", "gpu_fan_pwm"), 0)})


def optimizer(scenario: Scenario, wants: int | None, strange: str = "", baseline: Any = RulesPid) -> Optimizer:
    """One that always wants the same, if anything is given."""
    made = Optimizer(scenario, LIMITS, baseline(scenario, LIMITS))
    if wants is not None:
        made.brain.think = lambda *_: Thought(wants, strange, "", 0)  # type: ignore[method-assign]
    return made


def percents(kept: Kept) -> list[int]:
    return [cycle.learned.authority_percent for cycle in kept.cycles if cycle.learned]


def test_what_is_wanted_in_a_strange_state_is_not_followed_and_costs_authority() -> None:
    scenario = learning("gaming", 250)
    kept = run(scenario, optimizer(scenario, THROTTLE, "an alarm over cpu"))
    plain = run(replace(scenario, learn=Learn()))
    assert [cycle.decision for cycle in kept.cycles] == [cycle.decision for cycle in plain.cycles]
    assert {cycle.learned.note for cycle in kept.cycles[:100] if cycle.learned} == {"an alarm over cpu"}
    # One level each time that more than 100 of 1,000 were strange.
    assert [percents(kept)[number] for number in (100, 101, 201, 202)] == [100, 50, 50, 10]


def without_fans(action: str, baseline: Mapping[str, int], percent: int) -> dict[str, int]:
    return {name: 0 if name.endswith("_pwm") else value for name, value in baseline.items()}


def test_commands_that_the_shield_changes_cost_authority_and_reward() -> None:
    scenario = learning("gaming", 40)
    made = optimizer(scenario, THROTTLE)
    made._proposals.command = without_fans  # type: ignore[method-assign]
    kept = run(scenario, made)
    changed = [bool(cycle.verdict.changed) for cycle in kept.cycles]
    assert all(cycle.decision.source == "neural" for cycle in kept.cycles[:33])
    assert all(changed[:33])
    assert [percents(kept)[number] for number in (10, 11, 21, 22, 32, 33)] == [100, 50, 50, 10, 10, 0][:6]
    assert "the shield had to change its commands too often" in made.authority.why
    # What was held back is worth less, whoever wanted it.
    reward = StandardReward(scenario.machine)
    told = [cycle.learned.reward_micro for cycle in kept.cycles if cycle.learned]
    assert told[1:] == [reward(cycle.view, held) for cycle, held in zip(kept.cycles[1:], changed[:-1], strict=True)]
    assert told[1] == reward(kept.cycles[1].view, False) - 300_000


def test_what_the_shield_changes_of_the_baselines_is_not_the_learners_fault() -> None:
    scenario = learning("gaming", 60)
    made = optimizer(scenario, REDUCE, baseline=NoFans)
    kept = run(scenario, made)
    assert all(cycle.verdict.changed for cycle in kept.cycles)
    assert sum(cycle.decision.source == "neural" for cycle in kept.cycles) > 50
    assert set(percents(kept)) == {100}


def test_earning_less_than_the_baseline_costs_authority() -> None:
    scenario = learning("gaming", 460, compare_every_blocks=2)
    made = optimizer(scenario, THROTTLE)
    made._reward = lambda view, held_back: -20_000 if made._executed == THROTTLE else 0
    kept = run(scenario, made)
    assert percents(kept)[399:401] == [100, 50]
    assert made.authority.why == "lowered to 50 %: it earned less than the baseline"
    made = optimizer(scenario, THROTTLE)
    made._reward = lambda view, held_back: -9_000 if made._executed == THROTTLE else 0
    assert set(percents(run(scenario, made))) == {100}


@pytest.mark.parametrize("quantised", [False, True])
def test_answers_that_are_no_numbers_cost_all_authority(quantised: bool) -> None:
    scenario = learning("gaming", 20, learning=False, quantised=False)
    made = Optimizer(scenario, LIMITS, RulesPid(scenario, LIMITS))
    if quantised:
        from twin.learn.quantised import Quantised

        policy = made.brain._policy
        made.brain._quantised = Quantised.of(policy.shape, policy.online, np.zeros((1, 8)))
        made.brain._quantised.factors[:] = np.nan
    else:
        made.brain._policy.online[:] = np.nan
    kept = run(scenario, made)
    assert set(percents(kept)[1:]) == {0}
    assert all(cycle.decision.source != "neural" for cycle in kept.cycles)


def test_weights_that_are_huge_are_not_taken_over() -> None:
    policy = Policy(SCENARIO.learn, 1)
    for name in ("online", "target"):
        arrays = {key: array.copy() for key, array in policy.arrays().items()}
        arrays[name][3] = 1e7
        with pytest.raises(ValueError, match=f"{name} of a policy's checkpoint has weights beyond 1e"):
            policy.restore(arrays)
    assert policy.counters[replay.REFUSED] == 0


# --- the look ahead ---------------------------------------------------------------------------------------------------


def play(looks: bool, cooled: Callable[..., Verdict] | None = None) -> tuple[Scenario, Kept]:
    """A learner that always boosts without fans, in a hot room, without a shield; the baseline cools fully."""
    scenario = replace(room("furnace", 0, 100), duration_ms=150_000, random_faults=RandomFaults())
    controller = hostile(scenario, AlwaysBoost(0), pinned=True)
    assert isinstance(controller, Optimizer)
    controller.baseline = FullCooling(LIMITS)
    if not looks:
        controller._foresight.keeps_limits = lambda view, command: True  # type: ignore[method-assign]
    kept = Kept()
    env = VirtualEnvironment(RoughLateness(scenario))
    world = World(env, scenario, wiring(scenario.machine))
    hardware = SimulatedHardware(world, wiring(scenario.machine), env.elapsed_ns)
    kept.world = world
    loop = Loop(env, hardware, scenario, controller, kept)
    loop._shield.project = lambda view, command: Verdict(dict(command), (), "")  # type: ignore
    loop.run()
    return scenario, kept


def test_the_look_ahead_alone_keeps_the_limits_that_boosting_breaks() -> None:
    scenario, kept = play(looks=True)
    _, blind = play(looks=False)
    limits = {sensor.node: sensor.limit_celsius for sensor in scenario.machine.sensors}
    assert any(hottest(blind)[node] > limit for node, limit in limits.items())
    assert all(hottest(kept)[node] <= limit for node, limit in limits.items())
    # It was followed while it could be, and exactly then.
    foresight = Foresight(scenario, LIMITS)
    boost = AlwaysBoost(0).command("boost", {}, 100)
    followed = [cycle.decision.source == "neural" for cycle in kept.cycles]
    assert 0 < sum(followed) < len(followed)
    for cycle, was in zip(kept.cycles, followed, strict=True):
        assert was == (not cycle.view.failsafe and foresight.keeps_limits(cycle.view, boost)), cycle.number


# --- controllers of one's own -----------------------------------------------------------------------------------------

GOOD = Learned("noop", "noop", 0, 0, (None,) * 3, 0, "", "")


@pytest.mark.parametrize(
    "answer",
    [
        "x", 5, replace(GOOD, reward_micro=10**30), replace(GOOD, note="\ud800"), replace(GOOD, note="\u00e9"),
        replace(GOOD, forecast_millicelsius=(None,)), replace(GOOD, forecast_millicelsius=[None] * 3),
        replace(GOOD, forecast_millicelsius=(None, 0.5, None)), replace(GOOD, anomaly_micro=float("nan")),
        replace(GOOD, weights=None), replace(GOOD, authority_percent=True), replace(GOOD, proposed=3),
    ],
)  # fmt: skip
def test_a_controller_that_tells_nonsense_is_told_so_and_the_run_goes_on(
    answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Telling(RulesPid):
        def executed(self, *_: object) -> Any:
            return answer

    scenario = quick(shipped_scenario("gaming"), duration_ms=1_000)
    with caplog.at_level(logging.ERROR, "twin"):
        kept = run(scenario, Telling(scenario, simulated(scenario, None).hardware.limits))
    assert len(kept.cycles) == 10
    assert all(cycle.learned is None for cycle in kept.cycles)


@pytest.mark.parametrize("answer", [None, GOOD])
def test_a_controller_may_tell_of_its_cycles(answer: Any) -> None:
    class Telling(RulesPid):
        def executed(self, *_: object) -> Any:
            return answer

    scenario = quick(shipped_scenario("gaming"), duration_ms=1_000)
    assert {cycle.learned for cycle in run(scenario, Telling(scenario, LIMITS)).cycles} == {answer}
