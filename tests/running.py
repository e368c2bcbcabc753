"""Runs of scenarios for tests: in memory, with every cycle kept, or as a user would run them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hardware.interface import Limit
from twin.cli import main
from twin.cli.backends import simulated
from twin.control.choose import make_controller
from twin.control.cycle import Cycle
from twin.control.view import Controller, Decision, View
from twin.kernels import Integers
from twin.loader import load, shipped, trace_path
from twin.loop import Loop
from twin.scenario import Scenario
from twin.world.trace import load_trace
from twin.world.world import World

SCENARIOS = tuple(shipped())


@dataclass
class Kept:
    """A recorder that keeps every cycle, and what the world was really like at that moment."""

    world: World | None = None
    cycles: list[Cycle] = field(default_factory=list)
    true_celsius: list[dict[str, float]] = field(default_factory=list)

    def ticks(self, captured: Integers) -> None:
        pass

    def cycle(self, cycle: Cycle) -> None:
        self.cycles.append(cycle)
        if self.world is not None:
            self.true_celsius.append(dict(self.world.true_temperatures_celsius))


@functools.cache
def shipped_scenario(name: str) -> Scenario:
    return load(name)


def quick(scenario: Scenario, **changes: Any) -> Scenario:
    """The same machine and work with a heartbeat of 100 ms: for tests that are about control alone."""
    return replace(scenario, heartbeat=replace(scenario.heartbeat, t0_ns=100_000_000), **changes)


def run(
    scenario: Scenario, controller: Controller | None = None, file: str | None = None, kept: Kept | None = None
) -> Kept:
    """Run on the simulated machine. `file` names the shipped scenario whose trace drives the world."""
    path = trace_path(scenario, shipped()[file or scenario.name]) if scenario.workload.trace else None
    trace = None if path is None or scenario.workload.trace is None else load_trace(path, scenario.workload.trace)
    backend = simulated(scenario, trace)
    kept = kept or Kept()
    kept.world = backend.world
    chosen = controller or make_controller(scenario, backend.hardware.limits)
    Loop(backend.env, backend.hardware, scenario, chosen, kept).run()
    return kept


class FullCooling:
    """A controller that always cools fully: the yardstick for what could have been kept."""

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self._command = {name: limit.safe for name, limit in limits.items()}

    def decide(self, view: View) -> Decision:
        return Decision("conservative", "rules", "always", self._command)


def twin(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None,
         check: bool = True) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """The command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "twin", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"twin {' '.join(map(str, arguments))} gave {done.returncode}: {done.stderr}")
    return done


def here(*arguments: object) -> dict[str, Any]:
    """What a command prints with `--json`, run in this process: for long runs whose start would cost as much."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([*map(str, arguments), "--json", "--quiet"])
    assert status in (0, 1)
    parsed: dict[str, Any] = json.loads(printed.getvalue())
    return parsed


def twin_json(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a command prints with `--json`."""
    parsed: dict[str, Any] = json.loads(twin(*arguments, "--json", cwd=cwd, env=env).stdout)
    return parsed


DIGESTS = ("tick_digest", "control_digest", "run_digest")


def digests(result: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(result[name] for name in DIGESTS)
