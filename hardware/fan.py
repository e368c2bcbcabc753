"""Whether a fan turns as it is told. What it learns can only make a fan faster than asked, and says what is wrong."""

from __future__ import annotations

TACH_NS = 3_000_000_000
"""So long a fan may take to turn, or to change its speed."""
KICK_NS = 1_000_000_000
"""So long a fan that stands is given the speed that starts it."""
LEARN = 8
"""How closely, in the fan's own unit, the least speeds are learned."""


class FanWatch:
    """Whether a fan turns as it is told, and what was learned of the least speeds at which it starts and turns."""

    def __init__(self, maximum: int) -> None:
        self.least = 0
        """At less it was seen to stop."""
        self.start = maximum
        """This much started it, or is the most that there is."""
        self._maximum = maximum
        self._no_start: int | None = None
        self._kick: int | None = None
        self._kick_ns = 0
        self._since_ns = 0
        self._moved_ns = 0
        self._standing = 0
        self._deaf = 0
        self._steady: tuple[int, int] | None = None
        self._wrong = ""

    def goal(self, now_ns: int, asked: int) -> int:
        """What to write for `asked`: 0 stays 0, the rest is enough for the fan to start and to turn."""
        if asked == 0:
            return 0
        kicking = self._kick is not None and now_ns - self._kick_ns < KICK_NS
        return max(asked, self.least, (self._kick or 0) if kicking else 0)

    def told(self, now_ns: int, before: int | None, raw: int) -> None:
        """`raw` was written where `before` was in force, None if that is not known."""
        self._moved_ns = now_ns
        if raw > 0 and not before:
            self._since_ns, self._standing = now_ns, 0
            if before == 0:
                self._kick_on(now_ns)

    def _kick_on(self, now_ns: int) -> None:
        # What starts it lies between what did not and what did; the first time everything is tried at once.
        low = self._no_start
        self._kick = self.start if low is None or self.start - low <= LEARN else (self.start + low + 1) // 2
        self._kick_ns = self._since_ns = now_ns

    def heard(self, now_ns: int, raw: int, rpm: int) -> str:
        """The fan turns at `rpm` while `raw` is in force: what is wrong with that, or nothing."""
        if raw <= 0:
            self._standing, self._steady, self._kick = 0, None, None
        elif now_ns - self._since_ns < TACH_NS:
            pass
        elif rpm > 0:
            if self._kick is not None:
                self.start, self._kick, self._no_start = self._kick, None, self._no_start or 0
            self._standing = 0
            self._wrong = self._responds(now_ns, raw, rpm)
        else:
            self._steady = None
            self._standing += 1
            if self._standing >= 2:
                self._standing = 0
                self._wrong = self._stands(now_ns, raw)
        return self._wrong

    def _stands(self, now_ns: int, raw: int) -> str:
        if raw >= self._maximum or self._kick == self._maximum:
            self._kick = None
            return f"the fan stands at {raw}"
        if self._kick is None:
            self.least = min(self._maximum, raw + LEARN)
        else:
            self._no_start = self._kick
        self.start = max(self.start, self.least)
        self._kick_on(now_ns)
        return ""

    def _responds(self, now_ns: int, raw: int, rpm: int) -> str:
        """Far more than was asked before, from less than half, has to be heard; twice, because fans take their time."""
        if now_ns - self._moved_ns < TACH_NS:
            return self._wrong
        before = self._steady
        if (before is None or before[0] * 2 > self._maximum or (raw - before[0]) * 8 < self._maximum * 3
                or rpm * 20 > before[1] * 21):  # fmt: skip
            self._steady, self._deaf = (raw, rpm), 0
            return ""
        self._deaf += 1
        return f"the fan turns at {rpm} rpm at {raw} and at {before[1]} rpm at {before[0]}" if self._deaf > 1 else ""
