"""The first difference between two runs, by simulated time, read from their tables a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twin.record.files import RecordInputError
from twin.record.tables import TableFacts, batches, open_table, table_facts

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class _Table:
    """A table to compare: its name, the columns that may number its rows, and the one that has their time."""

    name: str
    numbers: tuple[str, ...]
    time: str


_TABLES = (
    _Table("ticks", ("tick_number",), "elapsed_ns"),
    _Table("control", ("cycle", "cycle_number"), "time_ns"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two runs part.

    `row` is the tick or cycle number, `time_ns` its simulated time; both are None when the difference has no row: in
    the tables' existence, columns, or rows that were not kept. `column` is `row` when one run has the row and the other
    has not. `a` and `b` are what each run has there, and `note` says what else there is to know.
    """

    table: str
    row: int | None
    column: str
    a: int | str | None
    b: int | str | None
    time_ns: int | None = None
    note: str = ""

    def __str__(self) -> str:
        where = self.table if self.row is None else f"{self.table}, row {self.row}"
        end = f" ({self.note})" if self.note else ""
        return f"{where}, {self.column}: {self.a} and {self.b}{end}"


def first_difference(run_a: Path, run_b: Path) -> Difference | None:
    """The earliest difference between the tables of two run directories; None when they are equal.

    At equal times ticks come before control rows. Runs that keep different rows are compared where both keep them, and
    by their digests. Raises `RecordError` when neither run has one of the tables, or a table cannot be read.
    """
    found = [difference for table in _TABLES if (difference := _compare(table, run_a, run_b)) is not None]
    timed = [difference for difference in found if difference.time_ns is not None]
    if timed:
        return min(timed, key=lambda difference: difference.time_ns or 0)
    return found[0] if found else None


def _compare(table: _Table, run_a: Path, run_b: Path) -> Difference | None:
    path_a, path_b = run_a / f"{table.name}.parquet", run_b / f"{table.name}.parquet"
    there_a, there_b = path_a.is_file(), path_b.is_file()
    if not (there_a or there_b):
        raise RecordInputError(path_a, "is missing in both runs; replay them (twin replay) to get their tables back")
    if not (there_a and there_b):
        words = {True: "there", False: "missing"}
        note = "twin replay brings a table back"
        return Difference(table.name, None, "file", words[there_a], words[there_b], note=note)
    facts_a, facts_b = table_facts(path_a), table_facts(path_b)
    with open_table(path_a) as file_a, open_table(path_b) as file_b:
        schema_a, schema_b = _schema(facts_a, file_a), _schema(facts_b, file_b)
        if schema_a != schema_b:
            return Difference(table.name, None, "schema", schema_a, schema_b)
        rows_a, rows_b = _rows(path_a, file_a, facts_a), _rows(path_b, file_b, facts_b)
        found = _first_row(table, _pairs(rows_a, rows_b, min(facts_a.summary.rows, facts_b.summary.rows)))
    if found is not None or facts_a.summary.digest == facts_b.summary.digest:
        return found
    note = f"the rows that differ were not kept: {facts_a.keep} and {facts_b.keep}"
    return Difference(table.name, None, "digest", facts_a.summary.digest, facts_b.summary.digest, note=note)


def _schema(facts: TableFacts, file: Any) -> str:
    columns = ", ".join(f"{field.name} {field.type}" for field in file.schema_arrow)
    return f"{facts.schema_name}: {columns}"


@dataclass(frozen=True, slots=True)
class _Rows:
    """Kept rows of a table, at least one, and their numbers among all rows that there were."""

    numbers: npt.NDArray[np.int64]
    rows: pa.Table

    def to(self, stop: int) -> _Rows:
        """The first `stop` rows."""
        return _Rows(self.numbers[:stop], self.rows.slice(0, stop))

    def after(self, start: int) -> _Rows:
        """What is left without the first `start` rows."""
        return _Rows(self.numbers[start:], self.rows.slice(start))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Rows that both tables keep; or, with one table empty, the first kept one that the other run never had."""

    numbers: npt.NDArray[np.int64]
    a: pa.Table
    b: pa.Table


def _rows(path: Path, file: Any, facts: TableFacts) -> Iterator[_Rows]:
    """The kept rows of a table, a piece at a time."""
    import pyarrow as pa

    done = 0
    for batch in batches(path, file):
        numbers = facts.keep.numbers(facts.summary.rows, done, done + batch.num_rows)
        done += batch.num_rows
        if len(numbers):
            yield _Rows(numbers, pa.Table.from_batches([batch]))


def _pairs(rows_a: Iterator[_Rows], rows_b: Iterator[_Rows], both: int) -> Iterator[_Pair]:
    """The rows that both tables keep, a piece at a time; last, what one has beyond the `both` rows of both runs."""
    a, b = next(rows_a, None), next(rows_b, None)
    while a is not None and b is not None:
        upto = min(a.numbers[-1], b.numbers[-1])
        count_a, count_b = (int(np.searchsorted(side.numbers, upto, "right")) for side in (a, b))
        yield _common(a.to(count_a), b.to(count_b))
        a = a.after(count_a) if count_a < len(a.numbers) else next(rows_a, None)
        b = b.after(count_b) if count_b < len(b.numbers) else next(rows_b, None)
    for side, more, is_a in ((a, rows_a, True), (b, rows_b, False)):
        while side is not None and side.numbers[-1] < both:
            side = next(more, None)
        if side is not None:
            beyond = side.after(int(np.searchsorted(side.numbers, both)))
            none = beyond.rows.slice(0, 0)
            yield _Pair(beyond.numbers, beyond.rows if is_a else none, none if is_a else beyond.rows)


def _common(a: _Rows, b: _Rows) -> _Pair:
    """The rows that are in both."""
    if np.array_equal(a.numbers, b.numbers):
        return _Pair(a.numbers, a.rows, b.rows)
    numbers, in_a, in_b = np.intersect1d(a.numbers, b.numbers, assume_unique=True, return_indices=True)
    return _Pair(numbers, a.rows.take(in_a), b.rows.take(in_b))


def _first_row(table: _Table, pairs: Iterator[_Pair]) -> Difference | None:
    before = -1
    for pair in pairs:
        if pair.a.num_rows != pair.b.num_rows:
            there = pair.a if pair.a.num_rows else pair.b
            words = ("there", "missing") if pair.a.num_rows else ("missing", "there")
            note = _note(before, int(pair.numbers[0]))
            return Difference(table.name, _number(table, there, 0), "row", *words, _time(table, there, 0), note)
        firsts = [(row, index) for index in range(pair.a.num_columns) if (row := _first(pair, index)) is not None]
        if firsts:
            row, index = min(firsts)
            a, b = pair.a.column(index)[row].as_py(), pair.b.column(index)[row].as_py()
            times = [time for side in (pair.a, pair.b) if (time := _time(table, side, row)) is not None]
            name = pair.a.column_names[index]
            note = _note(int(pair.numbers[row - 1]) if row else before, int(pair.numbers[row]))
            return Difference(table.name, _number(table, pair.a, row), name, a, b, min(times, default=None), note)
        if len(pair.numbers):
            before = int(pair.numbers[-1])
    return None


def _note(equal: int, row: int) -> str:
    """What is not known about a difference in row number `row`, with `equal` the last that was compared before."""
    unknown = row - equal - 1
    return f"not both runs keep what is before, so they may part up to {unknown} rows before" if unknown else ""


def _first(pair: _Pair, index: int) -> int | None:
    """The first row in which column number `index` differs; None when none does."""
    import pyarrow.compute as pc

    a, b = pair.a.column(index), pair.b.column(index)
    unequal = pc.fill_null(pc.not_equal(a, b), fill_value=False)
    row = int(pc.index(pc.or_(unequal, pc.xor(a.is_null(), b.is_null())), value=True).as_py())
    return row if row >= 0 else None


def _number(table: _Table, rows: pa.Table, row: int) -> int | None:
    for name in table.numbers:
        if name in rows.column_names:
            return _integer(rows, name, row)
    return None


def _time(table: _Table, rows: pa.Table, row: int) -> int | None:
    return _integer(rows, table.time, row) if table.time in rows.column_names else None


def _integer(rows: pa.Table, name: str, row: int) -> int | None:
    value = rows.column(name)[row].as_py()
    return None if value is None else int(value)
