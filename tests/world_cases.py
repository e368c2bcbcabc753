"""Small machines and runs that the tests of the world share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twin.clock import VirtualEnvironment
from twin.scenario import Edge, Fault, Machine, Node, Phase, Scenario, Workload
from twin.timing import SECOND_NS
from twin.wiring import wiring
from twin.world import TraceTable, World

FOR_EVER_MS = 10**9
FULL_FANS = {"cpu_fan_pwm": 255, "gpu_fan_pwm": 255, "case_fan_pwm": 255}


class Run:
    """A world with its environment, for tests to step and look at."""

    def __init__(self, scenario: Scenario, trace: TraceTable | None = None) -> None:
        self.env = VirtualEnvironment()
        self.scenario = scenario
        self.wiring = wiring(scenario.machine)
        self.world = World(self.env, scenario, self.wiring, trace)

    def until(self, seconds: float) -> Run:
        self.env.run(until=round(seconds * SECOND_NS))
        return self

    def after_events(self, seconds: float) -> Run:
        """Up to `seconds` and through everything that is due then, as the control cycle finds it."""
        self.env.run(until=round(seconds * SECOND_NS) + 1)
        return self

    def values(self) -> dict[str, int | None]:
        values, _ = self.world.sense()
        return dict(zip((channel.name for channel in self.wiring.sensors), values, strict=True))

    def statuses(self) -> dict[str, Any]:
        _, statuses = self.world.sense()
        return dict(zip((channel.name for channel in self.wiring.sensors), statuses, strict=True))

    def command(self, **values: int) -> Run:
        for name, value in values.items():
            self.world.actuate(name, value)
        return self


def scenario(machine: Machine | None = None, *faults: Fault, seed: int = 1, **phase: Any) -> Scenario:
    """A scenario with one endless phase; `phase` are its settings."""
    phase.setdefault("duration_ms", FOR_EVER_MS)
    work = Workload(phases=(Phase(**phase),), frame_queue=2)
    return Scenario(machine=machine or Machine(), workload=work, faults=faults, seed=seed)


def one_node(watts_per_kelvin: float = 2.0, capacity: float = 50.0, **changes: Any) -> Machine:
    """A machine that is one lump in the air, heated by its idle powers alone: 10 W of the CPU, 5 W of the memory."""
    machine = Machine()
    return replace(
        machine,
        cpu=replace(machine.cpu, node="lump", idle_watts=10.0, leakage_amperes=0.0, capacitance_nanofarad=1e-12),
        gpu=replace(machine.gpu, enabled=False),
        memory=replace(machine.memory, node="lump", idle_watts=5.0, full_watts=5.0),
        nodes=(Node(name="lump", capacity_joules_per_kelvin=capacity),),
        edges=(Edge(a="lump", b="ambient", still_watts_per_kelvin=watts_per_kelvin),),
        sensors=(replace(machine.sensors[0], node="lump", noise_millicelsius=0, lag_ms=0),),
        fans=(),
        **changes,
    )
