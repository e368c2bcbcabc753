"""The one place where a backend's name becomes an environment and a machine."""

from __future__ import annotations

import logging
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
    from hardware.linux.adapter import LinuxHardware
    from hardware.linux.guarded import GuardedHands

log = logging.getLogger("twin")

FORGET = (
    " (it is tried again at the next start, and by twin restore; where it is gone for good, twin restore --forget {})"
)
"""What to do about an output that could not be given back."""


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

    env = WallEnvironment()
    if access.act:
        _below_the_trips(scenario, root)
    hardware = LinuxHardware(root, wiring(scenario.machine), env.elapsed_ns)
    hands = _Hands(hardware, scenario, root)
    if access.act and access.go_live is None:
        try:
            hands.take()
        except BaseException:
            hardware.close()
            raise
    if not access.shadow:
        return Backend(env, hardware, missing=hardware.missing)
    from twin.shadow import GoLive, ShadowHardware

    live = None if access.go_live is None else GoLive(*access.go_live, hands)
    return Backend(env, ShadowHardware(hardware, scenario, env.elapsed_ns, live), missing=hardware.missing)


class _Hands:
    """The guardian's hands for a machine, taken now or when its twin has proved good."""

    def __init__(self, hardware: LinuxHardware, scenario: Scenario, root: Path) -> None:
        self._hardware = hardware
        self._scenario = scenario
        self._root = root
        self._hands: GuardedHands | None = None
        self._said = False

    def take(self, waits: bool = True) -> None:
        """Act on the machine. Raises `InputError` when there is nothing to act on, and what the guardian says.

        Where nobody `waits` the guardian has only been started.
        """
        from hardware.linux.guarded import GuardedHands

        self._hands = GuardedHands(self._root, self._scenario.control.period_ms * 1_000_000, waits=waits)
        self._said = waits
        self._hardware.take(self._hands)
        if waits:
            _acting(self._hardware, self._hands)

    def begin(self) -> bool:
        """As `take`, in the middle of a run, which waits for nothing; what is wrong is said."""
        try:
            self.take(waits=False)
        except Exception as error:  # a run that only reads goes on, whatever keeps it from acting
            log.error("the twin has proved good, and yet nothing can be acted on: %s", error)
            return False
        return True

    def acts(self) -> bool | None:
        """Whether the machine is acted on now; None when it is not and will not be."""
        hands = self._hands
        acting = None if hands is None else hands.acting
        try:
            if hands is not None and acting and not self._said:
                self._said = True
                self._hardware.refused = hands.refused
                _acting(self._hardware, hands)
                log.warning("the twin has proved good: the machine is acted on from now on")
            elif hands is not None and acting is None:
                self._hands = None
                raise InputError(hands.why)
        except InputError as error:
            log.error("the machine is not acted on, and only read from now on: %s", error)
            return None
        return acting

    def end(self) -> None:
        """Give everything back."""
        self._hands = None
        self._hardware.let_go()
        log.warning("the twin and the machine part: the machine is given back, and only read%s",
                    "".join(f"; {name} could not be given back: {why}"
                            for name, why in self._hardware.unrestored))  # fmt: skip


def _below_the_trips(scenario: Scenario, root: Path) -> None:
    """Raises `InputError` for every limit of the scenario at which the kernel would already have acted itself."""
    from hardware.linux.sysfs import Root
    from hardware.linux.thermal import trip_points

    trips = trip_points(Root(root))
    wrong = [
        f"sensor {sensor.name}: its limit of {sensor.limit_celsius:g} C is not below the kernel's {kind} trip "
        f"of {zone} at {millicelsius / 1_000:g} C; choose a lower limit_celsius"
        for sensor in scenario.machine.sensors
        for zone, points in trips.items()
        for kind, millicelsius in points
        if kind in ("critical", "hot")
        and zone.partition("@")[0] in {name.partition("@")[0] for name in sensor.thermal_zones}
        and sensor.limit_celsius * 1_000 >= millicelsius > 0
    ]
    if wrong:
        raise InputError("; ".join(wrong))


def _acting(hardware: LinuxHardware, hands: GuardedHands) -> None:
    """Say what cannot be acted on, and what came of a journal. Raises `InputError` when there is nothing to act on."""
    reasons = {name: hardware.refused.get(name) or hardware.missing.get(name) for name in hardware.limits}
    if all(reasons.values()):
        hardware.let_go()
        raise InputError("--act: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))
    for name, why in reasons.items():
        if why:
            log.warning("%s is not acted on: %s", name, why)
    for name, note in hands.notes.items():
        log.warning("%s: %s", name, note)
    if hands.replayed["found"]:
        log.warning("a journal of an earlier run was there: given back were %s%s",
                    ", ".join(hands.replayed["restored"]) or "none",
                    "".join(f"; {name} not: {why}{FORGET.format(name)}"
                            for name, why in hands.replayed["unrestored"]))  # fmt: skip


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
