"""The one place where a backend's name becomes an environment and a machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hardware.interface import Hardware
from twin.cli import InputError
from twin.clock import ModelledLateness, TwinEnvironment, VirtualEnvironment, WallEnvironment
from twin.scenario import Scenario
from twin.wiring import wiring
from twin.world.trace import TraceTable
from twin.world.world import World


@dataclass(frozen=True, slots=True)
class Backend:
    """An environment and the machine in it; `world` is the simulated one, where there is one.

    `missing` says of channels why they are not there, where the backend knows.
    """

    env: TwinEnvironment
    hardware: Hardware
    world: World | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


def simulated(scenario: Scenario, trace: TraceTable | None = None, batch: bool = True) -> Backend:
    """The simulated machine, seen directly. `batch=False` runs the heartbeat one tick at a time."""
    from hardware.simulated import SimulatedHardware

    env, world = _world(scenario, trace, batch)
    return Backend(env, SimulatedHardware(world, wiring(scenario.machine), env.elapsed_ns), world)


def lockstep(scenario: Scenario, root: Path, trace: TraceTable | None = None) -> Backend:
    """The simulated machine, rendered as a tree of files below `root` and reached through the Linux backend.

    Raises `InputError` when the tree cannot lie there.
    """
    from hardware.lockstep import LockstepHardware

    env, world = _world(scenario, trace, batch=True)
    try:
        return Backend(env, LockstepHardware(world, wiring(scenario.machine), root, env.elapsed_ns), world)
    except ValueError as error:
        raise InputError(f"--root: {error}") from error


def linux(scenario: Scenario, root: Path, act: bool) -> Backend:
    """The real machine below `root`, in wall time."""
    from hardware.linux.adapter import LinuxHardware

    env = WallEnvironment()
    hardware = LinuxHardware(root, wiring(scenario.machine), env.elapsed_ns, act=act)
    return Backend(env, hardware, missing=hardware.missing)


@contextmanager
def opened(name: str, scenario: Scenario, root: Path | None, act: bool, trace: TraceTable | None) -> Iterator[Backend]:
    """The backend called `name`, closed at the end. A lockstep tree without a `root` lies in a temporary folder."""
    with ExitStack() as stack:
        if name == "simulated":
            backend = simulated(scenario, trace)
        elif name == "linux":
            backend = linux(scenario, root or Path("/"), act)
        elif root is not None:
            backend = lockstep(scenario, root, trace)
        else:
            # In memory where that is possible: the files are replaced ten times a second of simulated time.
            memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="twin-tree-", dir=memory))
            backend = lockstep(scenario, Path(folder), trace)
        stack.callback(backend.hardware.close)
        yield backend


def _world(scenario: Scenario, trace: TraceTable | None, batch: bool) -> tuple[VirtualEnvironment, World]:
    lateness = ModelledLateness(scenario.heartbeat.lateness_quantiles_ns, scenario.seed)
    env = VirtualEnvironment(lateness, batch)
    return env, world_in(env, scenario, trace)


def world_in(env: TwinEnvironment, scenario: Scenario, trace: TraceTable | None) -> World:
    """The machine of `scenario`, alive in `env`. Raises `InputError` for one that cannot be."""
    try:
        return World(env, scenario, wiring(scenario.machine), trace)
    except ValueError as error:
        raise InputError(f"the machine of the scenario cannot be: {error}") from error
