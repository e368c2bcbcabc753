"""One run of a scenario in memory, for training and evaluation: what it earned and what it did to the machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from hardware.interface import Limit
from twin.cli import InputError
from twin.cli.backends import Backend, simulated
from twin.control.cycle import Cycle
from twin.control.view import Controller
from twin.kernels import Integers
from twin.loader import find, input_digests, load, trace_path
from twin.loop import Loop
from twin.scenario import Scenario
from twin.world.trace import TraceTable, load_trace

LAST_SEED = (1 << 63) - 1
SLOW_HEARTBEAT_NS = 1_000_000_000
"""Decisions do not depend on the heartbeat, so that it may be slow where nobody looks at it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A scenario that can be played any number of times, with the trace that drives it, if one does."""

    scenario: Scenario
    trace: TraceTable | None
    trace_digest: str

    @classmethod
    def of(cls, name: str, overrides: Sequence[str]) -> Self:
        """The scenario `name`, shipped or a file. Raises `ScenarioError` and `TraceError`."""
        source = find(name)
        scenario = load(name, overrides)
        trace_digest, _ = input_digests(scenario, source)
        path = trace_path(scenario, source)
        trace = None if path is None or scenario.workload.trace is None else load_trace(path, scenario.workload.trace)
        return cls(scenario, trace, trace_digest)


def cases_of(names: Sequence[str], overrides: Sequence[str]) -> list[Case]:
    """The scenarios `names`. Raises `InputError` when two are called the same, and what `Case.of` raises."""
    cases = [Case.of(name, overrides) for name in names]
    called = [case.scenario.name for case in cases]
    twice = sorted({name for name in called if called.count(name) > 1})
    if twice:
        raise InputError(
            f"scenarios: {', '.join(twice)} is there more than once; name each once (every seed is played anyway), and "
            "give files of your own different names"
        )
    return cases


def check_seeds(options: argparse.Namespace) -> None:
    """Raise `InputError` for --seeds and --first-seed that no run can have."""
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: at least 1 is needed")
    if options.first_seed < 0 or options.first_seed > LAST_SEED - (options.seeds - 1):
        raise InputError(
            f"--first-seed {options.first_seed}: allowed are 0 to {LAST_SEED}, and so is the last of --seeds "
            f"{options.seeds}"
        )


@dataclass
class Episode:
    """Sums over the cycles of a run; a recorder. `true` temperatures are those of the world, which no sensor shows."""

    limits_celsius: Mapping[str, float]
    backend: Backend
    cycles: int = 0
    reward_micro: int = 0
    rewarded: int = 0
    over_limit_cycles: int = 0
    shielded: int = 0
    failsafes: int = 0
    proposed: int = 0
    frames_millihertz: int = 0

    def ticks(self, captured: Integers) -> None:
        """Not looked at."""

    def cycle(self, cycle: Cycle) -> None:
        """Add a cycle."""
        assert self.backend.world is not None
        self.cycles += 1
        learned = cycle.learned
        if learned is not None and learned.reward_micro is not None:
            self.reward_micro += learned.reward_micro
            self.rewarded += 1
        true = self.backend.world.true_temperatures_celsius
        self.over_limit_cycles += any(true[node] > limit for node, limit in self.limits_celsius.items())
        self.shielded += bool(cycle.verdict.changed)
        self.failsafes += bool(cycle.verdict.failsafe)
        self.proposed += cycle.decision.source == "neural"
        self.frames_millihertz += cycle.view.frame_rate_millihertz or 0

    @property
    def mean_reward(self) -> float:
        """Mean reward of a cycle, -1..1."""
        return self.reward_micro / 1e6 / max(self.rewarded, 1)

    @property
    def frames_per_second(self) -> float:
        """Mean frame rate over all cycles, those without frames included."""
        return self.frames_millihertz / 1e3 / max(self.cycles, 1)

    @property
    def energy_joules(self) -> float:
        """Heat given off by the parts."""
        assert self.backend.world is not None
        return self.backend.world.heat_in_joules


def play(
    scenario: Scenario,
    make: Callable[[Scenario, Mapping[str, Limit]], Controller],
    trace: TraceTable | None = None,
) -> Episode:
    """Run `scenario` to its end on the simulated machine, in memory, under the controller that `make` gives."""
    heart = replace(scenario.heartbeat, t0_ns=SLOW_HEARTBEAT_NS, capacity_words_per_second=1)
    scenario = replace(scenario, heartbeat=heart)
    backend = simulated(scenario, trace)
    nodes: dict[str, float] = {}
    for sensor in scenario.machine.sensors:
        nodes[sensor.node] = min(sensor.limit_celsius, nodes.get(sensor.node, sensor.limit_celsius))
    episode = Episode(nodes, backend)
    Loop(backend.env, backend.hardware, scenario, make(scenario, backend.hardware.limits), episode).run()
    return episode
