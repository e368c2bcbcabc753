"""Learners that mean harm, with full authority, on a machine on which every signal fails: nothing unsafe comes of it.

The nightly profile runs a million control cycles, the usual one twenty-five thousand.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest
from profiles import NIGHTLY
from running import FullCooling, Kept, quick, shipped_scenario
from strategies import LIMITS
from test_safety import furnace, hottest, unsafe

from hardware.simulated import SimulatedHardware
from twin.clock import ModelledLateness, VirtualEnvironment
from twin.control.choose import make_controller
from twin.control.cycle import Cycle
from twin.control.view import Controller, View
from twin.kernels import Stream
from twin.learn.brain import Thought
from twin.learn.optimizer import Optimizer
from twin.loop import Loop
from twin.scenario import ACTIONS, RandomFaults, Scenario
from twin.timing import Wake
from twin.wiring import wiring
from twin.world.world import World

CHUNK_CYCLES = 2_500
CHUNKS = 41 if NIGHTLY else 1
"""Runs of `CHUNK_CYCLES` for each policy and each of two rooms: 5 x 2 x 2,500 x `CHUNKS` cycles in all, two authorities
in turn."""


class RoughLateness(ModelledLateness):
    """As usual, but now and then a control cycle comes late, or the machine was suspended."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario.heartbeat.lateness_quantiles_ns, scenario.seed)
        self._stream = Stream(scenario.seed, "test.rough")

    def control(self, cycle: int) -> Wake:
        draw = self._stream.below(2_000)
        return Wake(250_000_000, 0) if draw == 0 else Wake(0, 30_000_000_000) if draw == 1 else super().control(cycle)


class Adversary:
    """Stands in for a brain, and for the proposals: what it wants is asked for as it is."""

    forecast_millicelsius = (None, None, None)

    def __init__(self, seed: int) -> None:
        self.stream = Stream(seed, f"test.{type(self).__name__}")
        self.cycle = 0

    def think(self, view: View, executed: int | None, reward_micro: int | None) -> Thought:
        self.cycle += 1
        return Thought(self.action(view, executed, reward_micro), "", "", 0)

    def action(self, view: View, executed: int | None, reward_micro: int | None) -> int:
        raise AssertionError

    def commanded(self, fan_pwm: tuple[int, ...]) -> None:
        pass

    def digest(self) -> str:
        return ""

    def command(self, action: str, baseline: Mapping[str, int], percent: int) -> Mapping[str, object]:
        """Full power without cooling for a boost, a little less for the rest."""
        share = {"boost": 0, "throttle": 1, "reduce_power": 2, "conservative": 8}[action]
        return {
            name: limit.maximum * share // 8 if name.endswith("_pwm") else limit.maximum
            for name, limit in LIMITS.items()
        }

    def nearest(self, values: Mapping[str, int], baseline: Mapping[str, int], percent: int) -> int:
        return 0


class Random(Adversary):
    """Anything, legal or not."""

    def action(self, view: View, executed: int | None, reward_micro: int | None) -> int:
        return self.stream.below(len(ACTIONS))

    def command(self, action: str, baseline: Mapping[str, int], percent: int) -> Mapping[str, object]:
        strange = (None, "255", True, 10**5_000, -1, 12.5)
        return {
            name: strange[self.stream.below(len(strange))]
            if self.stream.below(200) == 0
            else self.stream.between(limit.minimum, limit.maximum)
            for name, limit in LIMITS.items()
        }


class AlwaysBoost(Adversary):
    def action(self, view: View, executed: int | None, reward_micro: int | None) -> int:
        return ACTIONS.index("boost")


class NotANumber(Adversary):
    """What is no number, in every place; every so often it just raises."""

    def action(self, view: View, executed: int | None, reward_micro: int | None) -> int:
        draw = self.stream.below(40)
        if draw == 0:
            raise FloatingPointError("no number")
        odd: tuple[object, ...] = (math.nan, math.inf, None, "boost", 99, -1)
        return odd[draw - 1] if draw <= len(odd) else 2  # type: ignore[return-value]

    def command(self, action: str, baseline: Mapping[str, int], percent: int) -> Mapping[str, object]:
        return {**dict.fromkeys(LIMITS, math.nan), **({} if self.stream.below(2) else baseline)}


class Oscillating(Adversary):
    def action(self, view: View, executed: int | None, reward_micro: int | None) -> int:
        return ACTIONS.index("boost" if self.cycle % 4 < 2 else "conservative")


class RewardHacker(Adversary):
    """Repeats what has paid best in the state at hand, faults and failsafes included."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.paid: dict[tuple[str, int], tuple[int, int]] = {}
        self.last = ("", 0)

    def action(self, view: View, executed: int | None, reward_micro: int | None) -> int:
        if reward_micro is not None:
            total, count = self.paid.get(self.last, (0, 0))
            self.paid[self.last] = (total + reward_micro, count + 1)
        state = f"{bool(view.failsafe)}{bool(view.suspicion)}{(view.headroom_millicelsius() or 0) // 4_000}"

        def worth(action: int) -> float:
            total, count = self.paid.get((state, action), (0, 0))
            return total / count if count else 1e9

        best = max(range(len(ACTIONS)), key=worth)
        self.last = (state, best if self.stream.below(10) else self.stream.below(len(ACTIONS)))
        return self.last[1]


ADVERSARIES = (Random, AlwaysBoost, NotANumber, Oscillating, RewardHacker)

STATES = {
    "a reading is not there": r"not there|read failed|not an integer|not renewed",
    "a reading is out of range": r"is outside",
    "a reading is old": r"ms old",
    "a reading jumped": r"jumped by",
    "a reading parts from the model": r"than the model allows",
    "held for some cycles after": r"^held after",
    "a cycle came late": r"came \d+ ms late",
    "the machine was suspended": r"was suspended",
    "what is asked is no number": r"the controller asked",
}
"""Every reason for which the shield cools fully, as the control table gives it."""

NOTES = {
    "the learner raised": r"^the learner raised",
    "the shield cools": r"^the shield cools fully",
    "in shadow": r"^(in shadow|lowered|raised)",
    "full cooling might come too late": r"^full cooling might",
    "the baseline's turn": r"^the baseline's turn",
}
"""Why the learner was not followed, as the control table gives it."""


class Judge(Kept):
    """Judges every cycle as it comes, and counts why the machine was cooled and the learner was not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.unsafe: list[str] = []
        self.reasons: Counter[str] = Counter()

    def cycle(self, cycle: Cycle) -> None:
        self.count += 1
        self.unsafe += unsafe(cycle)
        if cycle.verdict.failsafe:
            self.reasons.update(name for name, words in STATES.items() if re.search(words, cycle.verdict.failsafe))
        if cycle.learned is not None and cycle.learned.note:
            self.reasons.update(name for name, words in NOTES.items() if re.search(words, cycle.learned.note))
        self.reasons["followed"] += cycle.decision.source == "neural"


def hostile(scenario: Scenario, adversary: Adversary, pinned: bool) -> Controller:
    controller = make_controller(scenario, LIMITS)
    assert isinstance(controller, Optimizer)
    controller.brain = adversary  # type: ignore[assignment]
    controller._proposals = adversary  # type: ignore[assignment]
    if pinned:
        # Nothing that it does costs it its authority.
        controller.authority.cycle = lambda *_: None  # type: ignore[method-assign]
    return controller


def play(scenario: Scenario, controller: Controller, kept: Kept) -> Kept:
    env = VirtualEnvironment(RoughLateness(scenario))
    world = World(env, scenario, wiring(scenario.machine))
    hardware = SimulatedHardware(world, wiring(scenario.machine), env.elapsed_ns)
    kept.world = world
    Loop(env, hardware, scenario, controller, kept).run()
    return kept


def room(name: str, seed: int, authority: int) -> Scenario:
    base = furnace() if name == "furnace" else quick(shipped_scenario("soak"))
    learn = replace(base.learn, enabled=True, authority_percent=authority, evidence_cycles=200)
    return replace(
        base,
        seed=seed,
        duration_ms=CHUNK_CYCLES * 100,
        learn=learn,
        heartbeat=replace(base.heartbeat, t0_ns=1_000_000_000),
        random_faults=RandomFaults(per_minute=0.2, duration_ms=4_000),
    )


REACHED: Counter[str] = Counter()


@functools.cache
def yardstick(name: str, seed: int) -> Mapping[str, float]:
    """The highest true temperatures under full cooling from the first cycle on."""
    scenario = room(name, seed, 0)
    return dict(hottest(play(scenario, FullCooling(LIMITS), Judge())))


@pytest.mark.parametrize("name", ["furnace", "soak"])
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_no_learner_can_hurt_the_machine(adversary: type[Adversary], name: str) -> None:
    cycles = 0
    for seed in range(CHUNKS):
        scenario = room(name, seed, 100)
        judge = Judge()
        # Every other run it keeps its authority whatever it does; in the others it has to earn it again.
        play(scenario, hostile(scenario, adversary(seed), pinned=seed % 2 == 0), judge)
        cycles += judge.count
        REACHED.update(judge.reasons)
        assert judge.unsafe == [], f"seed {seed}"
        worst, best = hottest(judge), yardstick(name, seed)
        for sensor in scenario.machine.sensors:
            limit = sensor.limit_celsius
            assert worst[sensor.node] <= limit or best[sensor.node] > limit, (
                f"seed {seed}: {sensor.node} reached {worst[sensor.node]:.2f} C, {best[sensor.node]:.2f} C cooled fully"
            )
    print(f"{adversary.__name__} in the {name}: {cycles} cycles, 0 unsafe commands, {dict(REACHED)}")


class Tame(Adversary):
    """Wants nothing, and so keeps its authority."""

    def action(self, view: View, executed: int | None, reward_micro: int | None) -> int:
        return ACTIONS.index("noop")


def nearly_too_hot(seed: int) -> Scenario:
    """A furnace that begins where only full cooling can still keep the limits."""
    scenario = room("furnace", seed, 100)
    start = {"cpu_die": 92.5, "cpu_sink": 88.0, "gpu_die": 87.5, "gpu_sink": 82.0, "case": 60.0}
    nodes = tuple(replace(node, initial_celsius=start[node.name]) for node in scenario.machine.nodes)
    return replace(scenario, duration_ms=2_000, machine=replace(scenario.machine, nodes=nodes))


def test_every_failsafe_state_is_reached() -> None:
    """Runs what is needed by itself, so that it does not depend on which tests ran in this process before."""
    reached: Counter[str] = Counter()
    for seed, (name, adversary) in enumerate(
        [("soak", NotANumber), ("furnace", AlwaysBoost), ("soak", Tame), ("furnace", Random), ("soak", NotANumber)]
    ):
        scenario = room(name, seed, 100)
        judge = Judge()
        play(scenario, hostile(scenario, adversary(seed), pinned=seed % 2 == 1), judge)
        reached.update(judge.reasons)
    judge = Judge()
    play(nearly_too_hot(0), hostile(nearly_too_hot(0), AlwaysBoost(0), pinned=True), judge)
    reached.update(judge.reasons)
    print(dict(reached))
    assert {name for name in (*STATES, *NOTES) if not reached[name]} == set()
