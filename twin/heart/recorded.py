"""A recorded heartbeat, replayed through the reference law's interval (L7) and mode (L8).

What can be judged is judged, from one kept row to the next, and from what was recorded before, not from what should
have been: one wrong row does not spoil those after it. Rows of the first 20 ms are dropped, because self-tests set the
targets there.

L7. A row's counters say which inferences ran since the row before, its target must be what they make of the target
before, and without an inference it must stay. An inference that ended early runs again at the next tick, a full one
after N ticks.

L8. A row's proposal follows from its window and slope, and from speculations, of which only the hits are recorded. The
candidate and its votes are not recorded either. So all states that the rows before allow are carried along, and a row
is a mismatch when none of them leads to its mode. The bits for L2, L3, L5 and L6 must be those of the mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from twin.heart.reference_steps import ALL_LOOPS, COMMIT_VOTES, LARGEST, next_interval, proposed_mode, voted

START_UP_NS = 20_000_000
NEEDED = (
    "tick_number", "elapsed_ns", "prefetch_hits_delta", "tick_target_ns", "decay_slope_q48", "window_width", "l8_mode",
    "inference_runs", "early_exits",
)  # fmt: skip
BITS = {"L2": 8, "L3": 4, "L5": 2, "L6": 1}
"""Columns that a recording may have besides, and the bit of the mode that each of them repeats."""
_LIMITS = {"l8_mode": ALL_LOOPS, "L2": 1, "L3": 1, "L5": 1, "L6": 1}
KEPT_MISMATCHES = 10


class RecordingError(ValueError):
    """A recording that cannot be replayed; the message names line and column, the value, and what is allowed."""


@dataclass(frozen=True)
class Settings:
    """What the recorded machine was built with.

    `t0_ns` and `inference_ticks` are 1 to 2^63-1. `cv_threshold` and `temporal_threshold` are those of L8's L5 and L3
    bits; the recorded machine has the other two (0.75 for the entropy, 0.3 for the temporal locality of the L6 bit)
    in constants of their own.
    """

    t0_ns: int = 10_000
    inference_ticks: int = 1_000
    cv_threshold: float = 0.15
    temporal_threshold: float = 0.5
    entropy_threshold: float = 0.75
    low_temporal_threshold: float = 0.3


@dataclass(frozen=True)
class Mismatch:
    """A value that the law does not give: its loop, line in the file, tick, column, and what would have been right."""

    loop: str
    line: int
    tick_number: int
    column: str
    recorded: int
    expected: str


@dataclass
class Verdict:
    """How many transitions of L7 (inferences) and ticks of L8 were judged, how many rows of each were wrong."""

    l7_transitions: int = 0
    l7_mismatches: int = 0
    l8_ticks: int = 0
    l8_mismatches: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)
    """The first ones."""

    def add(self, mismatch: Mismatch) -> None:
        """Count a mismatch."""
        if mismatch.loop == "L7":
            self.l7_mismatches += 1
        else:
            self.l8_mismatches += 1
        if len(self.mismatches) < KEPT_MISMATCHES:
            self.mismatches.append(mismatch)


@dataclass(frozen=True)
class Row:
    """One recorded tick: where it stands, and its columns by name."""

    line: int
    values: dict[str, int]

    def __getitem__(self, column: str) -> int:
        return self.values[column]

    def mismatch(self, loop: str, column: str, expected: str) -> Mismatch:
        """That this row's `column` is wrong."""
        return Mismatch(loop, self.line, self["tick_number"], column, self[column], expected)


def read_rows(table: Iterable[list[str]]) -> Iterator[Row]:
    """The ticks of a table of strings, its header first; raises `RecordingError` where it is not a recording."""
    lines = enumerate(table, start=1)
    header = next((names for _, names in lines), None)
    if header is None:
        raise RecordingError("the file is empty; a header with the names of the columns and a row a tick are needed")
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise RecordingError(f"line 1: there is no column {missing[0]}; needed are {', '.join(NEEDED)}")
    wanted = {name: header.index(name) for name in (*NEEDED, *BITS) if name in header}
    before: Row | None = None
    for line, cells in lines:
        if not cells:
            continue
        if len(cells) != len(header):
            raise RecordingError(f"line {line}: {len(cells)} columns; the header has {len(header)}")
        row = Row(line, {name: _number(line, name, cells[at]) for name, at in wanted.items()})
        if before is not None:
            _follows(row, before)
        before = row
        yield row
    if before is None:
        raise RecordingError("line 2: there is no tick; a row a tick is needed")


def _number(line: int, column: str, text: str) -> int:
    most = _LIMITS.get(column, LARGEST)
    # As many digits as the limit has: longer ones need not be made into numbers to be too large.
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= most:
        return int(text)
    raise RecordingError(f"line {line}, column {column}: {text[:40]!r}; allowed are whole numbers from 0 to {most}")


def _follows(row: Row, before: Row) -> None:
    if row["tick_number"] <= before["tick_number"]:
        raise RecordingError(
            f"line {row.line}, column tick_number: {row['tick_number']} after {before['tick_number']}; "
            "allowed are growing numbers: sort the rows, and give one recording at a time"
        )
    if row["elapsed_ns"] < before["elapsed_ns"]:
        raise RecordingError(
            f"line {row.line}, column elapsed_ns: {row['elapsed_ns']} after {before['elapsed_ns']}; "
            "time does not go back: sort the rows, and give one recording at a time"
        )


def judge(rows: Iterable[Row], settings: Settings) -> Verdict:
    """Replay a recording; raises `RecordingError` when no row is left after the start-up."""
    verdict = Verdict()
    interval = IntervalJudge(settings)
    mode = ModeJudge(settings)
    kept = 0
    for row in rows:
        mode.count_hits(row)
        if row["elapsed_ns"] < START_UP_NS:
            continue
        kept += 1
        interval.judge(row, verdict)
        mode.judge(row, verdict)
    if kept == 0:
        raise RecordingError(
            f"no row has elapsed_ns of {START_UP_NS} or more; those before are start-up and are dropped: record longer"
        )
    return verdict


class IntervalJudge:
    """L7: what inferences make of the interval, and when they run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._before: Row | None = None
        self._due: int | None = None
        """The tick of the next inference, once one has been seen: the first waits until the machine is warm."""

    def judge(self, row: Row, verdict: Verdict) -> None:
        """Judge a row by the one before; a row counts as one mismatch at most."""
        before, self._before = self._before, row
        if before is None:
            return
        mismatch = self._judge(row, before, verdict)
        if mismatch is not None:
            verdict.add(mismatch)

    def _judge(self, row: Row, before: Row, verdict: Verdict) -> Mismatch | None:
        ticks = row["tick_number"] - before["tick_number"]
        inferences = row["inference_runs"] - before["inference_runs"]
        early = row["early_exits"] - before["early_exits"]
        if not 0 <= inferences <= ticks:
            self._due = None
            least = before["inference_runs"]
            return row.mismatch("L7", "inference_runs", f"{least} to {least + ticks}")
        if not 0 <= early <= inferences:
            self._due = None
            least = before["early_exits"]
            return row.mismatch("L7", "early_exits", f"{least} to {least + inferences}")
        untimely = self._untimely(row, before, ticks, inferences, early)
        if 0 < early < inferences:
            # Rows are missing, and nobody knows in which order these came.
            return untimely
        verdict.l7_transitions += inferences
        expected = self._moved(before["tick_target_ns"], inferences, early > 0)
        if row["tick_target_ns"] != expected:
            return row.mismatch("L7", "tick_target_ns", str(expected))
        return untimely

    def _moved(self, interval_ns: int, inferences: int, early: bool) -> int:
        for _ in range(inferences):
            moved = int(next_interval(interval_ns, self._settings.t0_ns, early))
            if moved == interval_ns:
                break
            interval_ns = moved
        return interval_ns

    def _untimely(self, row: Row, before: Row, ticks: int, inferences: int, early: int) -> Mismatch | None:
        tick, due = row["tick_number"], self._due
        if inferences == 0:
            if due is None or due > tick:
                return None
            self._due = None
            return row.mismatch("L7", "inference_runs", str(before["inference_runs"] + 1))
        self._due = None
        if ticks == 1:
            self._due = tick + (1 if early else self._settings.inference_ticks)
        if due is not None and due > tick:
            return row.mismatch("L7", "inference_runs", str(before["inference_runs"]))
        return None


Votes = tuple[int, int, int, bool]
"""A state that L8 may be in: mode, candidate, votes, and whether there have been speculations."""


class ModeJudge:
    """L8: which modes the proposals so far can have led to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._states: frozenset[Votes] = frozenset()
        self._tick: int | None = None
        self._hits: int | None = 0
        """Speculations that came true since the machine's start; None where that is not known."""
        self._counted: int | None = None
        self._next: dict[tuple[frozenset[Votes], int, int, bool], frozenset[Votes]] = {}

    def count_hits(self, row: Row) -> None:
        """Take note of a row's hits; needed from the very first row on, because L8 goes by all since the start."""
        tick = row["tick_number"]
        whole = tick <= 1 if self._counted is None else tick == self._counted + 1
        self._counted = tick
        if not whole:
            self._hits = None
        elif self._hits is not None:
            self._hits += row["prefetch_hits_delta"]

    def judge(self, row: Row, verdict: Verdict) -> None:
        """Judge a row; the first one, and one after a gap, only tell what the mode is."""
        mode, tick = row["l8_mode"], row["tick_number"]
        judged = self._tick is not None and tick == self._tick + 1
        self._tick = tick
        wrong = self._wrong_bit(row)
        if not judged:
            self._states = _any_votes(mode)
            if wrong is not None:
                verdict.add(wrong)
            return
        verdict.l8_ticks += 1
        reached = self._reached(row)
        self._states = frozenset(state for state in reached if state[0] == mode)
        if not self._states:
            modes = sorted({state[0] for state in reached})
            verdict.add(row.mismatch("L8", "l8_mode", " or ".join(map(str, modes))))
            self._states = _any_votes(mode)
        elif wrong is not None:
            verdict.add(wrong)

    def _wrong_bit(self, row: Row) -> Mismatch | None:
        for column, bit in BITS.items():
            right = int(row["l8_mode"] & bit != 0)
            if row.values.get(column, right) != right:
                return row.mismatch("L8", column, str(right))
        return None

    def _reached(self, row: Row) -> frozenset[Votes]:
        known = self._hits is not None and self._hits == 0
        key = (self._states, row["window_width"], row["decay_slope_q48"], known)
        if key not in self._next:
            self._next[key] = frozenset(
                _after(state, self._proposal(row, cv), later)
                for state in self._states
                for later, cv in _variations(state[3], known)
            )
        return self._next[key]

    def _proposal(self, row: Row, cv: float) -> int:
        settings = self._settings
        return int(
            proposed_mode(
                row["window_width"],
                row["decay_slope_q48"],
                cv,
                settings.entropy_threshold,
                settings.temporal_threshold,
                settings.low_temporal_threshold,
                settings.cv_threshold,
            )
        )


def _after(state: Votes, proposal: int, speculated: bool) -> Votes:
    mode, candidate, votes = voted(state[0], state[1], state[2], proposal)
    return int(mode), int(candidate), int(votes), speculated


_LOWEST_VARIATION = -float(LARGEST)


def _variations(speculated: bool, no_hits: bool) -> list[tuple[bool, float]]:
    """Whether there are speculations by the next tick, and the extremes that the variation can then have.

    Without speculations it is 0.5. With them and no hits it is 1; with hits it is less, and below 0 where a standing
    guess came true more than once.
    """
    some = [(True, 1.0)] if no_hits else [(True, 1.0), (True, _LOWEST_VARIATION)]
    return some if speculated else [(False, 0.5), *some]


def _any_votes(mode: int) -> frozenset[Votes]:
    """Every state with this mode."""
    return frozenset(
        (mode, candidate, votes, speculated)
        for candidate in range(ALL_LOOPS + 1)
        for votes in range(COMMIT_VOTES + 1)
        for speculated in (False, True)
    )
