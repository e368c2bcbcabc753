"""A run that is made again from its seam log: what the replay tells as it goes on, then its tables."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twin.dashboard.live import LiveRun
from twin.dashboard.runs import About, Record, Run, State, Value
from twin.dashboard.tables import TableRun
from twin.record.files import RecordError
from twin.record.rundir import SEAM_LOG


class ReplayedRun:
    """A run of which a replay tells. Once there are tables of it, every record is out of them."""

    def __init__(self, live: LiveRun, tables: TableRun | None, folder: Path | None) -> None:
        """`folder` is where the replay puts its tables. A finished run has `tables` anyway, and of it only what the
        learner thought is made again.
        """
        self._live = live
        self._tables = tables
        self._folder = folder
        self._lock = threading.Lock()

    @property
    def _shown(self) -> Run:
        with self._lock:
            if self._folder is not None and self._live.state != "running":
                # A replay that failed has left none.
                with contextlib.suppress(RecordError):
                    self._tables = TableRun(self._live.about, self._folder, self._live.state)
                self._folder = None
            return self._live if self._tables is None else self._tables

    @property
    def about(self) -> About:
        """What it is."""
        return self._shown.about

    @property
    def state(self) -> State:
        """How it stands."""
        return self._shown.state

    @property
    def cycles(self) -> int:
        """How many records there have been."""
        return self._shown.cycles

    @property
    def lost(self) -> int:
        """None: a replay waits for whoever it tells."""
        return self._shown.lost

    @property
    def age_ms(self) -> int | None:
        """How long ago the log grew (ms): the replay may be behind it."""
        shown = self._shown
        if shown is not self._live or self._live.age_ms is None:
            return shown.age_ms
        try:
            grew = (Path(self._live.about.run_dir) / SEAM_LOG).stat().st_mtime
        except OSError:
            return self._live.age_ms
        return max(0, round((time.time() - grew) * 1_000))

    @property
    def tables(self) -> Path | None:
        """The folder of its tables, once the replay has made them."""
        return self._shown.tables

    def history(self, most: int) -> Sequence[Record]:
        """The newest records, oldest first."""
        return self._shown.history(most)

    def course(self, columns: Sequence[str], first_ns: int, last_ns: int, points: int) -> dict[str, list[Value]]:
        """These columns between two times, both included, as at most `points` rows."""
        return self._shown.course(columns, first_ns, last_ns, points)

    def records(self) -> Iterator[Record]:
        """Every record that is there, oldest first."""
        return self._shown.records()

    def insight(self) -> Mapping[str, Any] | None:
        """What the learner thinks where the replay is now."""
        return self._live.insight()
