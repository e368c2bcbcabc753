"""The directory of an experiment: one SQLite file in which results commit, and Parquet shards made from it.

    manifest.sqlite       what the plan is, and one row for each job that is done; the truth
    runs-00000.parquet    fingerprints, a row a run, about 1,000 runs a file
    ticks-00000.parquet   the ticks that the plan keeps, a row group a run
    plan.toml             the plan, overrides and defaults written out

A result is either wholly in the manifest or not at all, and a job has one result however often it was done. The ticks
of a run wait in the manifest until their shard is written under another name, synced and renamed; only then are they
let go. Whatever instant a process is killed at, the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from twin.experiment.jobs import Outcome
from twin.record import files
from twin.record.files import RecordError, RecordInputError

MANIFEST = "manifest.sqlite"
PLAN = "plan.toml"
SCHEMA = "experiment/1"
SHARD_RUNS = 1_000

_COLUMNS = "number, key, candidate, seed, ticks, tick_digest, control_digest, run_digest, result"
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outcomes (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    candidate TEXT NOT NULL,
    seed INTEGER NOT NULL,
    ticks INTEGER NOT NULL,
    tick_digest TEXT NOT NULL,
    control_digest TEXT NOT NULL,
    run_digest TEXT NOT NULL,
    result TEXT NOT NULL,
    kept_ticks BLOB
);
CREATE TABLE IF NOT EXISTS shards (shard INTEGER PRIMARY KEY);
"""


class ExperimentError(RecordInputError):
    """A directory that does not belong to what was asked for."""


class Store:
    """An experiment's directory, open for one process. A context manager."""

    def __init__(self, folder: Path, facts: dict[str, str] | None = None, plan_text: str = "") -> None:
        """Open `folder`; with `facts` (what the results are of: `plan` and `code`) make it if it is not there.

        Raises `ExperimentError` when it belongs to other facts or another process is at it, and `RecordError`.
        """
        self.folder = folder
        self._lock = -1
        writing = facts is not None
        if writing:
            files.make_folder(folder)
            if not (folder / MANIFEST).exists() and any(each.name not in _OURS for each in folder.iterdir()):
                raise ExperimentError(folder, "has other things in it; name an empty folder, or a new one (--out)")
            self._take_lock()
        elif not (folder / MANIFEST).is_file():
            raise ExperimentError(folder, f"has no {MANIFEST}, so no experiment was done there; name another folder")
        try:
            self._facts = self._opened(folder / MANIFEST) if writing else self._read_only(folder / MANIFEST)
            if facts is not None:
                self._own({"schema": SCHEMA, **facts}, plan_text)
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise self._failed(error) from error
            raise

    def _opened(self, place: Path) -> dict[str, str]:
        self._base = sqlite3.connect(place)
        # Room that the ticks of a finished shard leave is given back.
        self._base.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")
        self._base.executescript(_TABLES)
        return self._all_facts()

    def _read_only(self, place: Path) -> dict[str, str]:
        uri = f"{place.absolute().as_uri()}?mode=ro"
        self._base = sqlite3.connect(uri, uri=True)
        try:
            return self._all_facts()
        except sqlite3.OperationalError:
            if place.with_name(f"{MANIFEST}-wal").exists():
                raise
            # Where nothing may be written, SQLite cannot have its own files beside; nobody else writes there either.
            self._base.close()
            self._base = sqlite3.connect(f"{uri}&immutable=1", uri=True)
            return self._all_facts()

    def _all_facts(self) -> dict[str, str]:
        return dict(self._base.execute("SELECT name, value FROM facts"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        with contextlib.suppress(AttributeError, sqlite3.Error):
            self._base.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> None:
        path = self.folder / "lock"
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise ExperimentError(
                self.folder, "another process is doing this experiment; wait for it, or name another folder (--out)"
            ) from None
        except OSError as error:
            raise files.failure(path, "taking the lock", error) from error

    def _own(self, facts: dict[str, str], plan_text: str) -> None:
        """Write down what the results here are of, or see that they are of the same."""
        if not self._facts:
            files.write_atomic(self.folder / PLAN, plan_text.encode())
            self._commit("INSERT INTO facts VALUES (?, ?)", sorted(facts.items()))
            self._facts = dict(facts)
            return
        words = {
            "schema": "was made by a version of pulsetwin that wrote another format",
            "plan": "has results of another plan",
            "code": "has results that other code computed; they are not mixed with new ones",
        }
        wrong = [words[name] for name, value in facts.items() if self._facts.get(name) != value]
        if wrong:
            raise ExperimentError(
                self.folder, f"{' and '.join(wrong)}; name another folder (--out), or delete this one"
            )

    def fact(self, name: str) -> str | None:
        """What the directory says of itself under `name`: `plan`, `code`, and what `note` wrote."""
        return self._facts.get(name)

    def note(self, name: str, value: str) -> None:
        """Write a fact down."""
        self._commit("INSERT OR REPLACE INTO facts VALUES (?, ?)", [(name, value)])
        self._facts[name] = value

    def done(self) -> dict[int, str]:
        """The numbers of the jobs that are done, and their keys."""
        return dict(self._query("SELECT number, key FROM outcomes"))

    def counts(self, runs: int, candidates: int) -> list[int]:
        """How many jobs of each candidate are done, in the plan's order; `runs` of the plan come before kicked ones."""
        found = [0] * candidates
        # Of keys and numbers there is an index, so that no result is read.
        query = "SELECT (number - ? * (number >= ?)) % ?, COUNT(*) FROM outcomes GROUP BY 1"
        for place, count in self._query(query, (runs, runs, candidates)):
            found[place] = count
        return found

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Commit these outcomes, all or none. One that is there already stays as it is.

        Raises `RecordError` when the disk takes no more, and when a job that is there gives something else now.
        """
        texts = [files.canonical_json(each.result).decode() for each in outcomes]
        for each, text in zip(outcomes, texts, strict=True):
            before = next(self._query("SELECT run_digest, result FROM outcomes WHERE key = ?", (each.key,)), None)
            if before is not None and before != (each.run_digest, text):
                raise RecordError(
                    self.folder / MANIFEST,
                    f"job {each.number} ({each.candidate}, seed {each.seed}) was done twice and came to different "
                    f"results, with the digests {before[0][:16]} and {each.run_digest[:16]}; this machine computes "
                    "wrongly, or it is a bug: keep the directory and report it",
                )
        rows = [
            (
                each.number, each.key, each.candidate, each.seed, each.ticks, each.tick_digest,
                each.control_digest, each.run_digest, text, each.kept_ticks or None,
            )
            for each, text in zip(outcomes, texts, strict=True)
        ]  # fmt: skip
        self._commit("INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _commit(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        try:
            with self._base:
                self._base.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _query(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._base.execute(query, values)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> RecordError:
        path = self.folder / MANIFEST
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" or "disk I/O error" in str(error)
        saved = "every result before is saved; run the same command again to go on"
        if full:
            return RecordError(path, f"the disk takes no more ({error}); {saved} after freeing some space", 28)
        if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
            return ExperimentError(path, "is no SQLite file; name another folder (--out)")
        return RecordError(path, f"cannot be used: {error}; {saved}")

    def outcomes(self, first: int, end: int) -> Iterator[Outcome]:
        """The outcomes with numbers `first` .. `end` - 1 in order, without their ticks."""
        query = f"SELECT {_COLUMNS} FROM outcomes WHERE number >= ? AND number < ? ORDER BY number"
        for row in self._query(query, (first, end)):
            number, key, candidate, seed, ticks, tick_digest, control_digest, run_digest, result = row
            yield Outcome(
                number, key, candidate, seed, ticks, tick_digest, control_digest, run_digest, json.loads(result)
            )

    def ticks(self, end: int) -> int:
        """How many ticks the outcomes with numbers below `end` have together."""
        try:
            row = self._base.execute("SELECT COALESCE(SUM(ticks), 0) FROM outcomes WHERE number < ?", (end,)).fetchone()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return int(row[0])

    # --- shards ---------------------------------------------------------------------------------------------------

    def shards(self) -> set[int]:
        """The shards that are written."""
        return {row[0] for row in self._query("SELECT shard FROM shards")}

    def write_shard(self, shard: int, numbers: Sequence[int]) -> None:
        """Write the two files of a shard from the runs `numbers`, and let go of their ticks. Raises `RecordError`."""
        from twin.experiment import tables

        numbers = sorted(numbers)
        with files.replacing(self.folder / f"runs-{shard:05}.parquet") as place:
            tables.write_runs(place, (next(self.outcomes(number, number + 1)) for number in numbers))
        blobs = (self._ticks(number) for number in numbers)
        first = next((blob for blob in blobs if blob is not None), None)
        if first is not None:
            with files.replacing(self.folder / f"ticks-{shard:05}.parquet") as place:
                tables.write_ticks(place, first, (blob for blob in blobs if blob is not None))
        try:
            with self._base:
                self._base.execute("INSERT INTO shards VALUES (?)", (shard,))
                self._base.executemany(
                    "UPDATE outcomes SET kept_ticks = NULL WHERE number = ?", [(number,) for number in numbers]
                )
            self._base.executescript("PRAGMA incremental_vacuum")
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _ticks(self, number: int) -> bytes | None:
        row = next(self._query("SELECT kept_ticks FROM outcomes WHERE number = ?", (number,)), None)
        return None if row is None else row[0]


_OURS = (MANIFEST, f"{MANIFEST}-wal", f"{MANIFEST}-shm", PLAN, f"{PLAN}{files.PARTIAL}", "lock")
"""What an experiment's directory may have in it before its first result."""
