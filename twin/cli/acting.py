"""What a run does to a real machine: whose hands carry it out, and what has to be said of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.watch import State
from twin.cli import ALWAYS, InputError
from twin.control.cycle import Cycle
from twin.kernels import Integers
from twin.scenario import Scenario

if TYPE_CHECKING:
    from hardware.linux.adapter import LinuxHardware
    from hardware.linux.guarded import GuardedHands

log = logging.getLogger("twin")

FORGET = (
    " (it is tried again at the next start, and by twin restore; where it is gone for good, twin restore --forget {})"
)
"""What to do about an output that could not be given back."""
UNDER_WAY = ("the guardian is starting", "the guardian is taking it")
"""What passes by itself, and is not news."""


class Acted:
    """The guardian's hands for a machine, taken now or when its twin has proved good, and what comes of them.

    It watches the loop, and says once what the guardian cannot do; `conclude` says what could not be given back.
    """

    def __init__(self, hardware: LinuxHardware, scenario: Scenario, root: Path) -> None:
        self._hardware = hardware
        self._scenario = scenario
        self._root = root
        self._hands: GuardedHands | None = None
        self._said = False
        self._to_say: list[str] = []
        self._left: dict[str, str] = {}
        """What was not given back in the middle of the run, which later hands may have mended."""
        self._unlike = Unlike()
        self._concluded = False
        self.unrestored: tuple[tuple[str, str], ...] = ()
        """At the end: each output that could not be given back, and why."""
        self.proof: Callable[[], str] = str
        """How near a twin was that never proved good, or nothing."""

    # --- taking, and giving back --------------------------------------------------------------------------------------

    def take(self, waits: bool = True) -> None:
        """Act on the machine. Raises `InputError` when there is nothing to act on, and what the guardian says.

        Where nobody `waits` the guardian has only been started.
        """
        from hardware.linux.guarded import GuardedHands

        self._hands = GuardedHands(self._root, self._scenario.control.period_ms * 1_000_000, waits=waits)
        self._said = waits
        self._hardware.take(self._hands)
        if waits:
            self._acting(self._hands)

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
                self._acting(hands)
                self.begun()
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
        self._left = dict(self._hardware.unrestored)
        left = "".join(f"; {name} could not be given back: {why}" for name, why in self._left.items())
        log.warning("the twin and the machine part: the machine is given back, and only read%s", left)

    def _acting(self, hands: GuardedHands) -> None:
        """Keep in mind what has to be said at the start. Raises `InputError` when there is nothing to act on."""
        hardware = self._hardware
        reasons = {name: hardware.refused.get(name) or hardware.missing.get(name) for name in hardware.limits}
        if all(reasons.values()):
            hardware.let_go()
            raise InputError("--act: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))
        refused = {name: why for name, why in reasons.items() if why}
        self._unlike.expected = set(refused)
        replayed = hands.replayed
        left = dict(replayed["unrestored"])
        # What was left in the middle of this run and has been given back since is left no more.
        self._left = {name: why for name, why in left.items() if name in self._left}
        self._to_say = [
            *(f"{name} is not acted on: {why}" for name, why in refused.items()),
            *(f"{name}: the machine takes less than the scenario may ask for, which is cut off: {why}"
              for name, why in hardware.narrower().items() if name not in refused),
            *(f"{name}: {note}" for name, note in hands.notes.items()),
        ]  # fmt: skip
        if replayed["found"]:
            self._to_say.append(
                f"a journal of an earlier run was there: given back were {', '.join(replayed['restored']) or 'none'}"
                + "".join(f"; {name} not: {why}{FORGET.format(name)}" for name, why in left.items())
            )

    # --- what is said -------------------------------------------------------------------------------------------------

    def begun(self) -> None:
        """Say what cannot be acted on, what the kernel cuts, and what came of a journal, however quiet the run is."""
        for text in self._to_say:
            log.warning("%s", _plain(text), extra={ALWAYS: True})
        self._to_say = []

    def cycle(self, cycle: Cycle, _tick: Integers | None) -> None:
        """Look at what became of a command, and say what is new."""
        hands = self._hands
        if hands is not None and self._said:
            self._unlike.see(cycle.applied.values, dict(cycle.applied.failed), hands.state, hands.reason)
            self._unlike.restarted(hands.restarts, hands.lost)

    def conclude(self) -> None:
        """After the end: say what came again, how near the twin was, and what could not be given back. Once."""
        if self._concluded:
            return
        self._concluded = True
        self._unlike.conclude()
        if proof := self.proof():
            log.warning("the twin has not proved good, and nothing was acted on: %s", proof)
        left = {**self._left, **dict(self._hardware.unrestored)}
        self.unrestored = tuple((_plain(name), _plain(why)) for name, why in left.items())
        where = "" if self._root.resolve() == Path("/") else f" --root {self._root}"
        for name, why in self.unrestored:
            log.error("%s was not given back: %s; mend that, then run twin restore%s", name, why, _plain(where))

    @property
    def figures(self) -> dict[str, Any] | None:
        """What the guardian went through, None where none has acted."""
        return self._unlike.figures

    def rows(self) -> list[tuple[str, str]]:
        """Lines for the table of what happened."""
        rows = []
        if figures := self.figures:
            off, cycles = figures["cycles_not_as_commanded"], figures["cycles"]
            rows.append(("guardian", f"at worst {figures['worst_state']}; an output was not as commanded in {off:,} of "
                                     f"{cycles:,} cycles" + f"; started again {figures['restarts']} times"
                                     * bool(figures["restarts"])))  # fmt: skip
        if proof := self.proof():
            rows.append(("not acted on", proof))
        if self.unrestored:
            rows.append(("not given back", ", ".join(name for name, _why in self.unrestored) + "; run twin restore"))
        return rows


class Unlike:
    """Counts the cycles in which an output is not as commanded, and says each kind of trouble once."""

    def __init__(self) -> None:
        self.expected: set[str] = set()
        """Outputs that are not acted on, which was said; one that is after all is as any other from then on."""
        self._cycles = self._off = self._restarts = 0
        self._worst = State.NORMAL
        self._now: object = State.NORMAL, "", ""
        self._first: dict[object, str] = {}
        self._again: dict[object, int] = {}

    @property
    def figures(self) -> dict[str, Any] | None:
        """The worst state, in how many of how many cycles an output was not as commanded, and restarts."""
        if not self._cycles:
            return None
        return {"worst_state": self._worst.name, "cycles_not_as_commanded": self._off, "cycles": self._cycles,
                "restarts": self._restarts}  # fmt: skip

    def see(self, values: Mapping[str, int], failed: Mapping[str, str], state: str, reason: str) -> None:
        """One cycle: what is in force, what failed and why, the guardian's state and why it cools fully."""
        self.expected.difference_update(values)
        failed = {name: why for name, why in failed.items() if name not in self.expected}
        now = State.__members__.get(state, State.NORMAL)
        self._cycles += 1
        self._off += bool(failed) or now >= State.MAXCOOL
        self._worst = max(self._worst, now)
        whys: dict[str, list[str]] = {}
        for name, why in failed.items():
            if why not in UNDER_WAY:
                whys.setdefault(why, []).append(name)
        news = "; ".join(f"{', '.join(names)}: {why}" for why, names in whys.items())
        # Only the numbers in it may differ, as of an output that another program keeps changing.
        key = now, re.sub(r"\d+", "#", news), re.sub(r"\d+", "#", reason)
        if key == self._now or (not news and failed):
            return
        self._now = key
        if not news and not reason:
            log.info("the guardian is in %s: every output is as commanded again", now.name)
            return
        if key in self._first:
            self._again[key] = self._again.get(key, 0) + 1
            return
        self._first[key] = _plain(f"the guardian is in {now.name}: {'; '.join(filter(None, (reason, news)))}")
        # The worst is said in a quiet run, too.
        log.log(logging.ERROR if now is State.ALARM else logging.WARNING, "%s", self._first[key])

    def restarted(self, restarts: int, why: str) -> None:
        """So often a guardian was started again by now; the last one was lost for this reason."""
        if restarts > self._restarts:
            self._restarts = restarts
            log.warning("the guardian was lost (%s), and another one is started", why)

    def conclude(self) -> None:
        """Say what came again, and how often."""
        for key, count in self._again.items():
            log.warning("%d more times: %s", count, self._first[key])
        self._again = {}


def below_the_trips(scenario: Scenario, root: Path) -> None:
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


def _plain(text: str) -> str:
    """A file's name may hold bytes that are no text; what is said is."""
    return text.encode(errors="backslashreplace").decode()
