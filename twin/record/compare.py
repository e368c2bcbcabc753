"""The first difference between two runs, by simulated time, read from their tables a row group at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        found = _first_row(table, _common((path_a, file_a, facts_a.keep.step), (path_b, file_b, facts_b.keep.step)))
    if found is not None or facts_a.summary.digest == facts_b.summary.digest:
        return found
    note = f"the rows that differ were not kept: {facts_a.keep} and {facts_b.keep}"
    return Difference(table.name, None, "digest", facts_a.summary.digest, facts_b.summary.digest, note=note)


def _schema(facts: TableFacts, file: Any) -> str:
    columns = ", ".join(f"{field.name} {field.type}" for field in file.schema_arrow)
    return f"{facts.schema_name}: {columns}"


@dataclass(frozen=True, slots=True)
class _Pair:
    """Rows of both tables that belong together, and what was kept between them."""

    a: pa.Table
    b: pa.Table
    note: str


def _common(a: tuple[Path, Any, int], b: tuple[Path, Any, int]) -> Iterator[_Pair]:
    """The rows that both tables keep, a piece at a time; last, what one has more (with an empty piece)."""
    path_a, file_a, step_a = a
    path_b, file_b, step_b = b
    if step_a == 0 or step_b == 0:
        return
    step = math.lcm(step_a, step_b)
    note = (
        "" if step == 1 else f"of every {step} rows one is compared, so the runs may part up to {step - 1} rows before"
    )
    pieces_a, pieces_b = _rows(path_a, file_a, step // step_a), _rows(path_b, file_b, step // step_b)
    rest_a, rest_b = next(pieces_a, None), next(pieces_b, None)
    while rest_a is not None and rest_b is not None:
        count = min(rest_a.num_rows, rest_b.num_rows)
        yield _Pair(rest_a.slice(0, count), rest_b.slice(0, count), note)
        rest_a = rest_a.slice(count) if count < rest_a.num_rows else next(pieces_a, None)
        rest_b = rest_b.slice(count) if count < rest_b.num_rows else next(pieces_b, None)
    if rest_a is not None:
        yield _Pair(rest_a, rest_a.slice(0, 0), note)
    if rest_b is not None:
        yield _Pair(rest_b.slice(0, 0), rest_b, note)


def _rows(path: Path, file: Any, stride: int) -> Iterator[pa.Table]:
    """Every `stride`-th row of `file`, in pieces that are not empty."""
    import pyarrow as pa

    offset = 0
    for batch in batches(path, file):
        picked = pa.array(range(-offset % stride, batch.num_rows, stride), pa.int64())
        offset += batch.num_rows
        if len(picked):
            yield pa.Table.from_batches([batch if stride == 1 else batch.take(picked)])


def _first_row(table: _Table, pairs: Iterator[_Pair]) -> Difference | None:
    for pair in pairs:
        if pair.a.num_rows != pair.b.num_rows:
            there = pair.a if pair.a.num_rows else pair.b
            words = ("there", "missing") if pair.a.num_rows else ("missing", "there")
            return Difference(table.name, _number(table, there, 0), "row", *words, _time(table, there, 0), pair.note)
        firsts = [(row, index) for index in range(pair.a.num_columns) if (row := _first(pair, index)) is not None]
        if firsts:
            row, index = min(firsts)
            a, b = pair.a.column(index)[row].as_py(), pair.b.column(index)[row].as_py()
            times = [time for side in (pair.a, pair.b) if (time := _time(table, side, row)) is not None]
            name = pair.a.column_names[index]
            return Difference(table.name, _number(table, pair.a, row), name, a, b, min(times, default=None), pair.note)
    return None


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
