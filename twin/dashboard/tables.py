"""A finished run as the page sees it: its records out of the tables of its run directory.

Nothing but row numbers and times is kept in memory, 16 bytes a cycle; everything else is read when it is asked for, a
row group at a time.

A record has the last tick before its cycle. Where not every tick was kept, it has the last kept one since the cycle
before, and no tick where none of those was kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from twin.dashboard.runs import KEPT, POINTS, About, Output, Record, Sensor, State, Value, forecast_ms
from twin.record.files import RecordInputError
from twin.record.rundir import CONTROL, MANIFEST, SCENARIO, SEAM_LOG, TICKS, RunDirectory
from twin.record.seamfollow import SeamFollower
from twin.record.seamformat import SeamHeader
from twin.record.tables import open_table, table_facts

if TYPE_CHECKING:
    import pyarrow as pa

Origin = Literal["live", "replayed", "recorded"]
Integers = npt.NDArray[np.int64]
SCHEMAS = {CONTROL: "control/1", TICKS: "tick/1"}
"""The tables that this program reads."""
TIME = "time_ns"
_NOT_OF_A_RECORD = ("run_id", "config", "lateness_ns")
"""Columns of a tick that a record does not have: the first two are the run's, the last one's name is the cycle's."""
_PIECE_ROWS = 2_048


class _Table:
    """A table file, read by row numbers. Not to be used by two threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = table_facts(path)
        if self.facts.schema_name != SCHEMAS[path.name]:
            raise RecordInputError(
                path,
                f"has schema {self.facts.schema_name}; this program reads {SCHEMAS[path.name]}; use the version of "
                f"pulsetwin that {MANIFEST} names",
            )
        self._file = open_table(path)
        self.names = tuple(self._file.schema_arrow.names)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate(([0], np.cumsum(np.array(sizes, dtype=np.int64))))

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self._starts[-1])

    def groups(self, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """All row groups with these columns, each with the number of its first row. Raises `RecordError`."""
        for group, start in enumerate(self._starts[:-1].tolist()):
            yield start, self._group(group, names)

    def take(self, names: Sequence[str], rows: Integers) -> dict[str, list[Value]]:
        """The values of these columns in `rows`, which ascend. Raises `RecordError`."""
        found: dict[str, list[Value]] = {name: [] for name in names}
        of = np.searchsorted(self._starts, rows, "right") - 1
        for group in np.unique(of).tolist():
            table = self._group(group, names)
            here = rows[of == group] - self._starts[group]
            for name, values in found.items():
                values += _values(table.column(name), here)
        return found

    def _group(self, group: int, names: Sequence[str]) -> pa.Table:
        import pyarrow as pa

        try:
            return self._file.read_row_group(group, columns=list(names), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise RecordInputError(self.path, f"is damaged ({error}); replay the run to get it back") from error


def _values(column: Any, rows: Integers) -> list[Value]:
    import pyarrow as pa

    if len(rows) == len(column):
        return list(column.to_pylist())
    # From a buffer, because `pyarrow.array` imports pandas, which takes 0.3 s.
    places = pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])
    return list(column.take(places).to_pylist())


class TableRun:
    """A run that has both tables. Every method may be called from any thread, and raise `RecordError`."""

    def __init__(self, about: About, folder: Path, state: State) -> None:
        """The run `about`, whose tables are in `folder`; its columns are what they have. Raises `RecordError`."""
        self._lock = threading.Lock()
        self._control, self._ticks = _Table(folder / CONTROL), _Table(folder / TICKS)
        self._tick_names = tuple(name for name in self._ticks.names if name not in _NOT_OF_A_RECORD)
        self._times: Integers | None = None
        self._tick_rows: Integers | None = None
        self._state: State = state
        self._folder = folder
        self._found = _identities(folder)
        self._about = replace(about, columns=(*self._control.names, *self._tick_names))

    @property
    def about(self) -> About:
        """What it is."""
        return self._about

    @property
    def state(self) -> State:
        """How it ended."""
        return self._state

    @property
    def cycles(self) -> int:
        """How many records there are."""
        return self._control.rows

    @property
    def lost(self) -> int:
        """None."""
        return 0

    @property
    def age_ms(self) -> None:
        """None: it is stored."""
        return None

    @property
    def tables(self) -> Path:
        """Where they are. Raises `RecordError` when these are not there any more, or others are in their place."""
        if _identities(self._folder) != self._found:
            raise RecordInputError(
                self._folder, "was removed or replaced while it was shown; start the page again for what is there now"
            )
        return self._folder

    def history(self, most: int) -> list[Record]:
        """The newest records, at most `most` (1 to KEPT), oldest first."""
        if not 1 <= most <= KEPT:
            raise ValueError(f"{most} records were asked for; 1 to {KEPT} are allowed")
        with self._lock:
            return self._records(max(self.cycles - most, 0), self.cycles)

    def course(self, columns: Sequence[str], first_ns: int, last_ns: int, points: int) -> dict[str, list[Value]]:
        """These columns between two times of the run, both included, as at most `points` (1 to POINTS) rows.

        The rows are evenly spread over those that there are; the first and the last of them are among them.
        """
        if not 1 <= points <= POINTS:
            raise ValueError(f"{points} points were asked for; 1 to {POINTS} are allowed")
        unknown = [name for name in columns if name not in self._about.columns]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no column of this run")
        with self._lock:
            times = self._all_times()
            first, end = np.searchsorted(times, first_ns, "left"), np.searchsorted(times, last_ns, "right")
            rows = _spread(int(first), int(end), points)
            found = self._take(tuple(dict.fromkeys(columns)), rows)
        return {name: found[name] for name in columns}

    def records(self) -> Iterator[Record]:
        """Every record, oldest first."""
        for start in range(0, self.cycles, _PIECE_ROWS):
            with self._lock:
                piece = self._records(start, min(start + _PIECE_ROWS, self.cycles))
            yield from piece

    def insight(self) -> Mapping[str, Any] | None:
        """None: what the learner thought is not stored."""
        return None

    def _records(self, start: int, stop: int) -> list[Record]:
        columns = self._about.columns
        found = self._take(columns, np.arange(start, stop, dtype=np.int64))
        return [dict(zip(columns, row, strict=True)) for row in zip(*found.values(), strict=True)]

    def _take(self, columns: Sequence[str], rows: Integers) -> dict[str, list[Value]]:
        """The values of these columns in these cycles."""
        of_ticks = [name for name in columns if name in self._tick_names]
        of_control = [name for name in columns if name not in self._tick_names]
        found = self._control.take(of_control, rows) if of_control else {}
        if of_ticks:
            ticks = self._all_tick_rows()[rows]
            there = ticks >= 0
            # Cycles that follow each other faster than ticks do have the same one.
            different, which = np.unique(ticks[there], return_inverse=True)
            for name, values in self._ticks.take(of_ticks, different).items():
                each = iter(which.tolist())
                found[name] = [values[next(each)] if known else None for known in there.tolist()]
        return {name: found[name] for name in columns}

    def _all_times(self) -> Integers:
        """The time of every cycle."""
        if self._times is None:
            self._times = np.concatenate([_EMPTY, *(_array(each, TIME) for _, each in self._control.groups((TIME,)))])
        return self._times

    def _all_tick_rows(self) -> Integers:
        """For each cycle the row of its tick, -1 where it has none."""
        if self._tick_rows is None:
            groups = self._control.groups((TIME, "lateness_ns"))
            due = np.concatenate([_EMPTY, *(_array(each, TIME) - _array(each, "lateness_ns") for _, each in groups)])
            found = np.full(len(due), -1, dtype=np.int64)
            tick_due = np.full(len(due), np.iinfo(np.int64).min)
            for start, group in self._ticks.groups(("elapsed_ns", "lateness_ns")):
                ticks = _array(group, "elapsed_ns") - _array(group, "lateness_ns")
                # What is due at the same time as a cycle comes before it.
                last = np.searchsorted(ticks, due, "right") - 1
                here = last >= 0
                found[here] = start + last[here]
                tick_due[here] = ticks[last[here]]
            if self._ticks.facts.summary.kept != self._ticks.facts.summary.rows:
                before = np.concatenate(([np.iinfo(np.int64).min], due[:-1]))
                found[tick_due <= before[: len(due)]] = -1
            self._tick_rows = found
        return self._tick_rows


def _identities(folder: Path) -> list[tuple[int, int, int, int]] | None:
    """Which files the tables are, None where they are not there."""
    try:
        found = [(folder / name).stat() for name in (CONTROL, TICKS)]
    except OSError:
        return None
    return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found]


_EMPTY = np.zeros(0, dtype=np.int64)


def _array(table: pa.Table, name: str) -> Integers:
    """A column without missing values as an array, made from its buffers for the same reason."""
    pieces = [_EMPTY]
    for chunk in table.column(name).chunks:
        kind = np.dtype(chunk.type.to_pandas_dtype())
        values = np.frombuffer(chunk.buffers()[1], kind, len(chunk), chunk.offset * kind.itemsize)
        pieces.append(values.astype(np.int64))
    return np.concatenate(pieces)


def _spread(first: int, end: int, points: int) -> Integers:
    """At most `points` of the rows `first` .. `end - 1`, evenly spread, with the first and the last of them."""
    count = max(end - first, 0)
    if count <= points:
        return np.arange(first, first + count, dtype=np.int64)
    if points == 1:
        return np.array([end - 1], dtype=np.int64)
    return first + np.arange(points, dtype=np.int64) * (count - 1) // (points - 1)


def open_run(run_id: str, name: str, path: Path) -> TableRun:
    """The finished run in the directory `path`. Raises `RecordError`, and `ScenarioError` for a foreign scenario."""
    directory = RunDirectory.open(path, needs=(SCENARIO, SEAM_LOG, CONTROL, TICKS, MANIFEST))
    manifest = directory.manifest or {}
    with SeamFollower(path / SEAM_LOG) as log:
        what = about(log.header, run_id, name, path, "recorded", manifest.get("backend"))
    return TableRun(what, path, "stopped" if manifest.get("stopped") else "ended")


def about(header: SeamHeader, run_id: str, name: str, path: Path, origin: Origin, backend: str | None) -> About:
    """What the run in the directory `path` is, by the header of its log, without columns. Raises `ScenarioError`."""
    from twin.loader import parse

    scenario = parse(header.scenario, str(path / SEAM_LOG))
    return About(
        id=run_id,
        name=name,
        origin=origin,
        backend=backend,
        scenario=scenario.name,
        seed=header.seed,
        config=header.config,
        law=header.law,
        machine=scenario.machine.name,
        run_dir=str(path),
        period_ms=scenario.control.period_ms,
        duration_ms=scenario.duration_ms,
        learns=scenario.learn.enabled,
        forecast_ms=forecast_ms(scenario),
        sensors=tuple(Sensor(each.name, round(each.limit_celsius * 1_000)) for each in scenario.machine.sensors),
        outputs=tuple(Output(limit.name, limit.minimum, limit.maximum) for limit in header.limits),
        columns=(),
    )
