"""What the guardian decides, without a clock, a file or a process: events and times in, what has to be written out.

Times are nanoseconds of any clock that does not run backwards. Values are integers in the files' own units.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from hardware import messages
from hardware.fan import FanWatch

LEASE_NS = 350_000_000
"""So long after a proposal the next one has to come (3.5 periods of 100 ms), or the controller counts as hung."""
GIVE_UP_NS = 30_000_000_000
"""A controller that is silent for so long does not come back, and the outputs are given back."""
VALID_TICKS = 10
"""After silence, nonsense or a suspend so many proposals in a row have to be good before they are carried out again."""
WRITE_NS = 100_000_000
"""An output is written at most so often; going to full cooling need not wait."""
FIGHT_NS = 10_000_000_000
"""An output that something else has changed is taken back at most so often."""
CALM_NS = 2_000_000_000
"""A state is left for a less severe one after its reason has been gone for so long."""
SLOW_NS = 50_000_000
"""Files that take longer, twice in a row, hold up the others: they are used less often."""
SLOW_SHARE = 20
"""Slow files are left in peace for so many times as long as they took, unless things have to be cooled."""


class State(IntEnum):
    """How things stand; the most severe wins. From MAXCOOL on nothing is carried out that was proposed."""

    NORMAL = 0
    DEGRADED = 1
    MAXCOOL = 2
    RESTORE = 3
    ALARM = 4


class Trouble(IntEnum):
    """What is wrong with one output. From LESS on it is an alarm."""

    NONE = 0
    FAILED = 1
    YIELDS = 2
    LESS = 3
    DEAD = 4


class Bounds(NamedTuple):
    """What may be written to an output, what is safe, which way is cooler (1 up, -1 down), and how late it shows."""

    minimum: int
    maximum: int
    safe: int
    cooler: int
    settle_ns: int


class OutputWatch:
    """One output: what is wanted of it, what was written, and whether it obeys."""

    def __init__(self, bounds: Bounds, fan: bool = False) -> None:
        self.bounds = bounds
        self.fan = FanWatch(bounds.maximum) if fan else None
        self.asked: int | None = None
        self.written: int | None = None
        """What is in force as far as is known; None when nothing of ours is, or nobody knows."""
        self._wrong: dict[str, tuple[Trouble, str]] = {}
        self._tried_ns: int | None = None
        self._cooling = False
        self._wait_ns: int | None = None
        self._fought_ns: int | None = None
        self._recent: list[tuple[int, int]] = []
        self._look_ns = self._rest_ns = self._slow = self._strange = self._strange_ns = 0
        self._shown: int | None = None

    @property
    def trouble(self) -> Trouble:
        """The worst that is wrong."""
        return max((trouble for trouble, _why in self._wrong.values()), default=Trouble.NONE)

    @property
    def why(self) -> str:
        """All that is wrong, or nothing."""
        return "; ".join(why for _trouble, why in self._wrong.values())

    def note(self, key: str, trouble: Trouble, why: str) -> None:
        """`why` is what is wrong in one respect, or nothing."""
        if why:
            self._wrong[key] = trouble, why
        else:
            self._wrong.pop(key, None)

    # --- writing ------------------------------------------------------------------------------------------------------

    def goal(self, now_ns: int, cool: bool) -> int | None:
        """What has to be in force now; None while nothing was ever asked."""
        asked, bounds = self.asked, self.bounds
        if asked is None:
            return None
        if cool:
            return max(bounds.safe, asked) if bounds.cooler > 0 else min(bounds.safe, asked)
        return asked if self.fan is None else min(bounds.maximum, max(asked, self.fan.goal(now_ns, asked)))

    def due(self, now_ns: int, cool: bool) -> int | None:
        """What has to be written now, or None."""
        if self._wait_ns is not None and now_ns >= self._wait_ns:
            # Whatever has taken the output has had its time.
            self._wait_ns, self._fought_ns, self.written = None, now_ns, None
        elif self._wait_ns is not None and cool and (self._shown is None or self._less_than(self.bounds.safe)):
            # It is left to something else that cools less than is safe, as far as anybody knows.
            self._wait_ns = self.written = None
        goal = self.goal(now_ns, cool)
        urgent, self._cooling = cool and not self._cooling, cool
        if goal is None or goal == self.written or self._wait_ns is not None:
            return None
        if self._tried_ns is not None and now_ns < max(self._tried_ns + WRITE_NS, self._rest_ns) and not urgent:
            return None
        return goal

    def _less_than(self, raw: int) -> bool:
        """Whether what was shown last cools less than `raw`."""
        return self._shown is not None and (raw - self._shown) * self.bounds.cooler > 0

    def took(self, now_ns: int, took_ns: int) -> None:
        """Writing or looking took so long."""
        self._slow = self._slow + 1 if took_ns > SLOW_NS else 0
        self._rest_ns = now_ns + SLOW_SHARE * took_ns if self._slow >= 2 else 0
        why = f"its files took {took_ns // 10**6} ms, and are used less often" if self._rest_ns else ""
        self.note("slow", Trouble.FAILED, why)

    def wrote(self, now_ns: int, raw: int, why: str) -> None:
        """`raw` was written; it failed if `why` is not empty."""
        self._tried_ns = now_ns
        self.note("write", Trouble.FAILED, why)
        if why:
            self.written = None
            return
        if not self._recent:
            self._look_ns = now_ns + self.bounds.settle_ns
        if self.fan is not None:
            self.fan.told(now_ns, self.written, raw)
        self.written = raw
        self._recent.append((now_ns, raw))

    def forget(self) -> None:
        """Nobody knows what is in force, as after a suspend."""
        self.written = self._wait_ns = None
        self._strange = 0
        self._recent.clear()

    # --- looking ------------------------------------------------------------------------------------------------------

    def look_due(self, now_ns: int) -> bool:
        """Whether the output has to be read back now."""
        return bool(self._recent) and now_ns >= max(self._look_ns, self._rest_ns)

    def looked(self, now_ns: int, shown: int | None, ours: bool, rpm: int | None, why: str) -> None:
        """The output was read back: what it shows, whether its mode is ours, and how fast its fan turns.

        A value of None was not shown, because of `why`; a mode that is full speed shows the maximum.
        """
        self._look_ns = now_ns + self.bounds.settle_ns
        # What was in force within the time that it takes to show may be what is shown.
        settled_ns = now_ns - self.bounds.settle_ns
        while len(self._recent) > 1 and self._recent[1][0] <= settled_ns:
            del self._recent[0]
        self._shown = shown
        if self.written is not None:
            if rpm is not None and self.fan is not None and self._wait_ns is None:
                self.note("fan", Trouble.DEAD, self.fan.heard(now_ns, self.written, rpm))
            self._compare(now_ns, shown, ours, why)
        if self.trouble is Trouble.LESS:
            self._look_ns = now_ns + WRITE_NS

    def found(self, now_ns: int, shown: int | None, ours: bool) -> bool:
        """What is there just before it is written over, None if nobody knows; whether that may be done."""
        if shown is not None:
            self._shown = shown
            self._compare(now_ns, shown, ours, "")
        return self._wait_ns is None or now_ns >= self._wait_ns

    def _compare(self, now_ns: int, shown: int | None, ours: bool, why: str) -> None:
        raws = [raw for _time_ns, raw in self._recent]
        # Devices round to what they can do.
        play = (self.bounds.maximum - self.bounds.minimum) // 16
        low, high = min(raws) - play, max(raws) + play
        if ours and shown is not None and low <= shown <= high:
            self._wait_ns = None
            if now_ns - self._strange_ns >= CALM_NS:
                # Our own next write hides what somebody else has written now and then.
                self._strange = 0
                self.note("shown", Trouble.NONE, "")
            return
        self._strange, self._strange_ns = self._strange + 1, now_ns
        less = self._less_than(low if self.bounds.cooler > 0 else high)
        if self._cooling and (less or shown is None):
            # Whatever it was, full cooling is written again at once, which harms nothing.
            self.written = None
        if self._strange < 2:
            # What is read may be older than the write.
            return
        self._strange = 0
        if shown is None:
            self.note("shown", Trouble.FAILED, f"it cannot be read back: {why}")
            return
        said = messages.foreign(shown, raws[-1], ours, less)
        self.note("shown", Trouble.LESS if less else Trouble.YIELDS, said)
        again_ns = now_ns if less else now_ns + FIGHT_NS
        if self._fought_ns is not None:
            again_ns = max(again_ns, self._fought_ns + FIGHT_NS)
        # It is looked at while it waits, which makes no wait longer.
        self._wait_ns = again_ns if self._wait_ns is None else min(again_ns, self._wait_ns)


class Watch:
    """All outputs, the controller's lease, and the state that follows."""

    def __init__(self, lease_ns: int = LEASE_NS) -> None:
        self.outputs: list[OutputWatch | None] = []
        """None for an output that was refused."""
        self.state = State.NORMAL
        self.reason = ""
        """Why things are cooled fully, while they are."""
        self.ended = ""
        """Why it is over, when it is."""
        self.tick = 0
        """The number of the last good proposal; 0 before the first one."""
        self._lease_ns = lease_ns
        self._heard_ns = 0
        self._good = VALID_TICKS
        self._severe_ns = 0

    @property
    def cool(self) -> bool:
        """Whether everything has to be cooled fully, whatever is proposed."""
        return self.state >= State.MAXCOOL

    def proposal(self, now_ns: int, tick: int, wanted: Sequence[tuple[int, int]] | None) -> None:
        """A proposal came: pairs of an output's place and a value. None for one that could not be read."""
        if wanted is None or tick <= self.tick:
            self.distrust(f"proposal {tick} after {self.tick} is " + ("nonsense" if wanted is None else "no progress"))
            return
        outputs = []
        for place, raw in wanted:
            output = self.outputs[place] if 0 <= place < len(self.outputs) else None
            if output is None or not output.bounds.minimum <= raw <= output.bounds.maximum:
                self.distrust(f"proposal {tick} asks {raw} of output {place}")
                return
            outputs.append((output, raw))
        for output, raw in outputs:
            output.asked = raw
        self.tick, self._heard_ns = tick, now_ns
        self._good = min(VALID_TICKS, self._good + 1)

    def distrust(self, why: str) -> None:
        """From now on everything is cooled fully, until enough good proposals have come."""
        self.reason, self._good = why, 0

    def suspended(self) -> None:
        """The machine slept: what was known of the outputs is worth nothing."""
        self.distrust("the machine was suspended")
        for output in self.outputs:
            if output is not None:
                output.forget()

    def end(self, why: str) -> None:
        """It is over; the first reason counts."""
        self.ended = self.ended or why

    def judge(self, now_ns: int) -> State:
        """The state now."""
        silent_ns = now_ns - self._heard_ns
        if self.tick and silent_ns > GIVE_UP_NS:
            self.end(f"the controller has been silent for {silent_ns // 10**6} ms")
        elif self.tick and silent_ns > self._lease_ns:
            self.distrust(f"the controller was silent for more than {self._lease_ns // 10**6} ms")
        severity = self._severity()
        if severity >= self.state or now_ns - self._severe_ns >= CALM_NS:
            self._severe_ns, self.state = now_ns, severity
        if self.state < State.MAXCOOL:
            self.reason = ""
        return self.state

    def _severity(self) -> State:
        worst = max((output.trouble for output in self.outputs if output is not None), default=Trouble.NONE)
        if worst >= Trouble.LESS:
            return State.ALARM
        if self.ended:
            return State.RESTORE
        if self._good < VALID_TICKS:
            return State.MAXCOOL
        return State.DEGRADED if worst else State.NORMAL
