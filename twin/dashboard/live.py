"""A run that a feed tells of: its newest records, and a thinned course of the whole, in bounded memory.

A message of a feed is a marshalled tuple in one packet, kind first: `ABOUT` what the run is, `RECORD` how many records
were dropped so far, the record's values and what the learner thinks, `END` how the run came out. Both ends are the same
interpreter and trust one another.
"""

from __future__ import annotations

import marshal
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from twin.dashboard.keeper import LARGEST
from twin.dashboard.runs import KEPT, POINTS, About, Output, Record, Sensor, State, Value

ABOUT, RECORD, END = 0, 1, 2


class LiveRun:
    """A run, made of what a feed tells. Records are kept as they came, and taken apart when somebody asks."""

    def __init__(self, about: About, again: bool = False) -> None:
        """`again` says that an earlier page had the first of its records, which are lost to this one."""
        self._about = about
        self._again = again
        self._before = 0
        self._time = about.columns.index("time_ns")
        self._state: State = "running"
        self._cycles = 0
        self._lost = 0
        self._newest: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._course: list[tuple[int, bytes]] = []
        self._every = 1
        self._insight: Mapping[str, Any] | None = None
        self._came: float | None = None
        self._lock = threading.Lock()

    @property
    def about(self) -> About:
        """What it is."""
        return self._about

    @property
    def state(self) -> State:
        """How it stands."""
        return self._state

    @property
    def cycles(self) -> int:
        """How many records there have been, those that were lost included."""
        return self._cycles + self.lost

    @property
    def lost(self) -> int:
        """How many records the feed had no room for, or had come before this page was there."""
        return self._before + self._lost

    @property
    def age_ms(self) -> int | None:
        """How long ago the newest record came (ms), None before the first."""
        return None if self._came is None else round((time.monotonic() - self._came) * 1_000)

    @property
    def tables(self) -> None:
        """None: they are made while the run goes on."""
        return None

    def record(self, lost: int, row: list[Value], insight: Mapping[str, Any] | None) -> None:
        """Another record came; `lost` have not come in all."""
        kept = (_whole(row[self._time]), marshal.dumps(row))
        with self._lock:
            if self._again:
                self._again = False
                self._before = max(0, _whole(row[self._about.columns.index("cycle")]) - lost)
            if self._cycles % self._every == 0:
                if len(self._course) == 2 * POINTS:
                    # Twice as coarse from here on; the first record stays the first.
                    del self._course[1::2]
                    self._every *= 2
                if self._cycles % self._every == 0:
                    self._course.append(kept)
            self._newest.append(kept)
            self._cycles += 1
            self._lost = lost
            self._insight = None if insight is None else _finite(insight)
            self._came = time.monotonic()

    def over(self, state: State) -> None:
        """No more records come."""
        self._state = state

    def history(self, most: int) -> Sequence[Record]:
        """The newest records, oldest first."""
        with self._lock:
            kept = list(self._newest)[-most:]
        return [self._named(row) for _, row in kept]

    def course(self, columns: Sequence[str], first_ns: int, last_ns: int, points: int) -> dict[str, list[Value]]:
        """These columns between two times: every record of the newest, and evenly chosen ones of those before."""
        kept = thinned([row for time_ns, row in self._all() if first_ns <= time_ns <= last_ns], points)
        places = [self._about.columns.index(name) for name in columns]
        rows = [marshal.loads(row) for row in kept]
        return {name: [row[place] for row in rows] for name, place in zip(columns, places, strict=True)}

    def records(self) -> Iterator[Record]:
        """Every record that is still there, oldest first."""
        return (self._named(row) for _, row in self._all())

    def insight(self) -> Mapping[str, Any] | None:
        """What the learner thinks now."""
        return self._insight

    def _all(self) -> list[tuple[int, bytes]]:
        with self._lock:
            newest = list(self._newest)
            course = list(self._course)
        return [kept for kept in course if kept[0] < newest[0][0]] + newest if newest else []

    def _named(self, row: bytes) -> dict[str, Value]:
        return dict(zip(self._about.columns, marshal.loads(row), strict=True))


def thinned(rows: list[bytes], points: int) -> list[bytes]:
    """At most `points` of the rows, evenly, the last one and (of more than one) the first one among them."""
    if len(rows) <= points:
        return rows
    if points == 1:
        return rows[-1:]
    last = len(rows) - 1
    return [rows[place * last // (points - 1)] for place in range(points)]


def follow(
    channel: socket.socket,
    begun: Callable[[LiveRun], None],
    news: Callable[[LiveRun], None],
    heard: bytes = b"",
    again: bool = False,
) -> None:
    """Listen to a feed until its end. `begun` is called with the run once it is known, `news` when it has changed.

    `heard` is a message that somebody else has taken out already; `again` is what `LiveRun` is told.
    """
    run: LiveRun | None = None
    channel.setblocking(True)
    while message := heard or channel.recv(LARGEST):
        heard = b""
        kind, *content = marshal.loads(message)
        if kind == ABOUT:
            run = LiveRun(_about(content[0]), again)
            begun(run)
        elif run is not None and kind == RECORD:
            run.record(*content)
            news(run)
        elif run is not None and kind == END:
            run.over(content[0])
            news(run)
    if run is not None and run.state == "running":
        run.over("lost")
        news(run)


def _about(told: dict[str, Any]) -> About:
    sensors = tuple(Sensor(**sensor) for sensor in told.pop("sensors"))
    outputs = tuple(Output(**output) for output in told.pop("outputs"))
    return About(**told, sensors=sensors, outputs=outputs)


def _whole(value: Value) -> int:
    assert type(value) is int
    return value


def _finite(insight: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The same without what JSON cannot hold."""
    return {
        part: {name: None if value is None or not math.isfinite(value) else value for name, value in values.items()}
        for part, values in insight.items()
    }
