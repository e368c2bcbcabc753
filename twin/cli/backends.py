"""The one place where a backend's name becomes an environment and a machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.interface import Hardware
from twin.cli import InputError
from twin.clock import ModelledLateness, TwinEnvironment, VirtualEnvironment, WallEnvironment
from twin.scenario import Scenario
from twin.wiring import wiring
from twin.world.trace import TraceTable
from twin.world.world import World

if TYPE_CHECKING:
    from twin.cli.acting import Acted


@dataclass(frozen=True, slots=True)
class Backend:
    """An environment and the machine in it; `world` is the simulated one, where there is one.

    `missing` says of channels why they are not there, where the backend knows. `acted` is there where a real machine
    is, or may come to be, acted on.
    """

    env: TwinEnvironment
    hardware: Hardware
    world: World | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    acted: Acted | None = None


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


@dataclass(frozen=True, slots=True)
class Access:
    """What a run may do to a real machine: `act` on it, with a `shadow` beside it, and when to `go_live`.

    `go_live` is how far a sensor and its twin may part (millicelsius) and for how long they must not have (s).
    """

    act: bool = False
    shadow: bool = False
    go_live: tuple[int, float] | None = None


READ_ONLY = Access()


def linux(scenario: Scenario, root: Path, access: Access = READ_ONLY) -> Backend:
    """The real machine below `root`, in wall time."""
    from hardware.linux.adapter import LinuxHardware
    from twin.cli.acting import Acted, below_the_trips

    env = WallEnvironment()
    if access.act:
        below_the_trips(scenario, root)
    hardware = LinuxHardware(root, wiring(scenario.machine), env.elapsed_ns)
    acted = Acted(hardware, scenario, root) if access.act else None
    if acted is not None and access.go_live is None:
        try:
            acted.take()
        except BaseException:
            hardware.close()
            raise
    if not access.shadow:
        return Backend(env, hardware, missing=hardware.missing, acted=acted)
    from twin.shadow import GoLive, ShadowHardware

    live = None if access.go_live is None or acted is None else GoLive(*access.go_live, acted)
    shadow = ShadowHardware(hardware, scenario, env.elapsed_ns, live)
    if acted is not None:
        acted.proof = shadow.proof
    return Backend(env, shadow, missing=hardware.missing, acted=acted)


@contextmanager
def opened(
    name: str, scenario: Scenario, root: Path | None, trace: TraceTable | None, access: Access = READ_ONLY
) -> Iterator[Backend]:
    """The backend called `name`, closed at the end. A lockstep tree without a `root` lies in a temporary folder."""
    with ExitStack() as stack:
        if name == "simulated":
            backend = simulated(scenario, trace)
        elif name == "linux":
            backend = linux(scenario, root or Path("/"), access)
        elif root is not None:
            backend = lockstep(scenario, root, trace)
        else:
            # In memory where that is possible: the files are replaced ten times a second of simulated time.
            memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="twin-tree-", dir=memory))
            backend = lockstep(scenario, Path(folder), trace)
        if backend.acted is not None:
            # However it ends, what was not given back is said.
            stack.callback(backend.acted.conclude)
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
