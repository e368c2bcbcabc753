"""Tables of integers and strings as Parquet files: written as they grow in bounded memory, digested row by row.

The digest covers every row, whatever is kept of them. How the file is laid out (row groups, compression, the library's
version) has no part in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from twin.record import arrow, files
from twin.record.arrow import Column
from twin.record.digest import RANGES, ColumnDigest, TableDigest
from twin.record.files import RecordError, RecordInputError
from twin.record.keep import Keep, Selection

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 16384
"""Rows in a row group, and in memory, at most."""
WAITING_ROWS = 256
"""Rows that came one by one and wait as they came, to be put into their columns all at once."""


@dataclass(frozen=True, slots=True)
class TableSummary:
    """What became of a table: rows that were taken, rows that are in the file, and the digest of all (hex)."""

    rows: int
    kept: int
    digest: str


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What a table file says about itself: its schema's name, which rows it keeps, and the summary of all rows."""

    schema_name: str
    keep: Keep
    summary: TableSummary


class _Integers:
    """The rows of an integer column that wait in memory."""

    def __init__(self, column: Column, digest: ColumnDigest) -> None:
        self._column = column
        self._digest = digest
        _, self._low, self._high = RANGES[column.code]
        self._values = np.zeros(GROUP_ROWS, dtype=np.int64)
        self._valid = np.ones(GROUP_ROWS, dtype=np.bool_) if column.nullable else None

    def check_block(self, value: Any, rows: int) -> Any:
        """`value` as an integer or an int64 array of `rows` rows. Raises `ValueError`."""
        if isinstance(value, np.ndarray):
            if value.shape != (rows,):
                raise ValueError(f"column {self._column.name} has shape {value.shape}; ({rows},) is needed")
            if value.dtype == np.int64:
                return value
            if value.dtype.kind not in "iu":
                raise ValueError(f"column {self._column.name} has type {value.dtype}; integers are needed")
            if value.dtype == np.uint64 and rows and int(value.max()) > self._high:
                raise ValueError(f"column {self._column.name} has {value.max()}; at most {self._high} is allowed")
            return value.astype(np.int64)
        return self.check(value)

    def check(self, value: Any) -> Any:
        """`value` if it fits, None only where that is allowed. Raises `ValueError`."""
        if type(value) is int and self._low <= value <= self._high:
            return value
        if value is None and self._valid is not None:
            return value
        allowed = f"integers from {self._low} to {self._high}" + (" and None" if self._valid is not None else "")
        raise ValueError(f"column {self._column.name}: {value!r} does not fit {self._column.code} ({allowed})")

    def put_block(self, value: Any, start: int, count: int, at: int) -> None:
        """Take rows `start` .. `start + count - 1` of a checked value to `at`."""
        self._values[at : at + count] = value[start : start + count] if isinstance(value, np.ndarray) else value
        if self._valid is not None:
            self._valid[at : at + count] = True

    def put_rows(self, values: Sequence[Any], at: int) -> None:
        """Take checked values, one a row, to `at` and after."""
        rows = slice(at, at + len(values))
        if self._valid is not None:
            self._valid[rows] = [value is not None for value in values]
            values = [0 if value is None else value for value in values]
        self._values[rows] = values

    def take(self, rows: int, kept: slice) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_] | None]:
        """Digest the first `rows` rows; the kept ones of them, copied, and where they have no value."""
        valid = None if self._valid is None else self._valid[:rows]
        typed = self._digest.integers(self._values[:rows], valid)
        return typed[kept].copy(), None if valid is None else ~valid[kept]


class _Text:
    """The rows of a string column that wait in memory, as runs of equal values."""

    def __init__(self, column: Column, digest: ColumnDigest) -> None:
        self._column = column
        self._digest = digest
        self._runs: list[str] = []
        self._counts: list[int] = []

    def check_block(self, value: Any, rows: int) -> Any:
        """`value` as a string, or a sequence of `rows` strings. Raises `ValueError`."""
        if isinstance(value, (list, tuple)):
            if len(value) != rows:
                raise ValueError(f"column {self._column.name} has {len(value)} rows; {rows} are needed")
            return [self.check(each) for each in value]
        return self.check(value)

    def check(self, value: Any) -> Any:
        """`value` if it is a string. Raises `ValueError`."""
        if type(value) is not str:
            raise ValueError(f"column {self._column.name}: {value!r} is not a string")
        return value

    def put_block(self, value: Any, start: int, count: int, at: int) -> None:
        """Take rows `start` .. `start + count - 1` of a checked value."""
        if isinstance(value, list):
            self.put_rows(value[start : start + count], at)
        else:
            self._runs.append(value)
            self._counts.append(count)

    def put_rows(self, values: Sequence[Any], _at: int) -> None:
        """Take checked values, one a row."""
        for value, run in groupby(values):
            count = sum(1 for _ in run)
            if self._runs and self._runs[-1] == value:
                self._counts[-1] += count
            else:
                self._runs.append(value)
                self._counts.append(count)

    def take(self, _rows: int, kept: slice) -> tuple[npt.NDArray[np.generic], list[str]]:
        """Digest what waits; for each kept row the number of its string, and the strings."""
        for run, count in zip(self._runs, self._counts, strict=True):
            self._digest.text(run, count)
        strings = list(dict.fromkeys(self._runs))
        numbers = {string: number for number, string in enumerate(strings)}
        codes = np.array([numbers[run] for run in self._runs], dtype=np.int32)
        rows = np.repeat(codes, np.array(self._counts, dtype=np.int64))
        self._runs.clear()
        self._counts.clear()
        return rows[kept], strings


class TableWriter:
    """Writes one table. As a context manager it commits the file at the end, or drops it after an exception.

    Until `close` the file has a temporary name. When it cannot be written, `RecordError` is raised, the piece is
    dropped and the writer takes no more rows: the seam log is what brings a table back.
    """

    def __init__(self, path: Path, schema_name: str, columns: Sequence[Column], keep: str) -> None:
        """`keep` as in `Keep.parse`. Raises `ValueError` for a wrong `keep` or for two columns of one name."""
        names = [column.name for column in columns]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"a table needs columns with different names, not {names}")
        self.path = path
        self._columns = tuple(columns)
        self._names = tuple(names)
        self._keep = Keep.parse(keep)
        self._selection = Selection(self._keep) if self._keep.waits else None
        self._digest = TableDigest(schema_name, [(column.name, column.code) for column in columns])
        self._stages = [
            _Text(column, digest) if column.kind == "str" else _Integers(column, digest)
            for column, digest in zip(columns, self._digest.columns, strict=True)
        ]
        self._fill = 0
        self._rows: list[Sequence[int | str | None]] = []
        self._taken = 0
        self._file: BinaryIO | None = None
        self._writer: Any = None
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._kept = 0
        self._summary: TableSummary | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def append_block(self, block: Mapping[str, npt.NDArray[np.integer[Any]] | Sequence[str] | int | str]) -> None:
        """Take many rows: for each column an array of integers (shape (n,)) or n strings, or one value for all rows.

        At least one column gives the number of rows. Arrays are copied. Raises `ValueError` for another shape or type
        at once, and for an integer outside its column's range by the time its row group is full; and `RecordError`.
        """
        self._check_open()
        # The columns' own checks name the one that differs, so which of them counts the rows matters only to people.
        sized: list[Any] = [value for value in block.values() if isinstance(value, np.ndarray)]
        sized += [value for value in block.values() if isinstance(value, (list, tuple))]
        rows = len(sized[0]) if sized else 0
        if not sized or len(block) != len(self._names) or any(name not in block for name in self._names):
            raise ValueError(f"a block has these columns, one of them at least as rows: {', '.join(self._names)}")
        checked = [stage.check_block(block[name], rows) for name, stage in zip(self._names, self._stages, strict=True)]
        self._put_rows()
        start = 0
        while start < rows:
            count = min(GROUP_ROWS - self._fill, rows - start)
            for stage, value in zip(self._stages, checked, strict=True):
                stage.put_block(value, start, count, self._fill)
            self._fill += count
            start += count
            if self._fill == GROUP_ROWS:
                self._spill()

    def append_row(self, row: Sequence[int | str | None]) -> None:
        """Take one row: a value for each column, None only in a nullable one. Raises `ValueError` and `RecordError`."""
        self._check_open()
        if len(row) != len(self._stages):
            raise ValueError(f"a row of this table has {len(self._stages)} values, not {len(row)}")
        for stage, value in zip(self._stages, row, strict=True):
            stage.check(value)
        self._rows.append(tuple(row))
        if len(self._rows) == WAITING_ROWS:
            self._put_rows()

    def close(self) -> TableSummary:
        """Write the rest, sync, and give the file its name. A second call returns the same. Raises `RecordError`."""
        if self._summary is not None:
            return self._summary
        self._check_open()
        self._put_rows()
        self._spill()
        if self._selection is not None:
            self._wait(self._selection.rest())
        summary = TableSummary(self._taken, self._kept + self._waiting_rows, self._digest.hexdigest())
        try:
            self._open_file()
            self._write_groups(1)
            self._writer.add_key_value_metadata(
                {
                    "twin.schema": self._digest.schema_name,
                    "twin.keep": str(self._keep),
                    "twin.rows": str(summary.rows),
                    "twin.kept": str(summary.kept),
                    "twin.digest": summary.digest,
                }
            )
            self._writer.close()
            assert self._file is not None
            files.commit(self._file, self.path)
        except OSError as error:
            raise self._failed(error) from error
        self._closed = True
        self._summary = summary
        return summary

    def abort(self) -> None:
        """Drop what was written. The file that had the name before, if any, stays."""
        if self._closed:
            return
        self._closed = True
        if self._writer is not None:
            # The library closes a writer when it is collected; without this it would complain about the full disk
            # once more, from a place where nobody can hear it.
            with contextlib.suppress(OSError):
                self._writer.close()
        files.discard(self._file, self.path)

    def _check_open(self) -> None:
        if self._closed:
            raise RecordError(self.path, "the table is closed or was given up; nothing more can be written to it")

    def _failed(self, error: OSError) -> RecordError:
        self.abort()
        saved = f"of {self._taken} rows none is saved here, but the seam log of the run brings them back (twin replay)"
        return files.failure(self.path, "writing the table", error, saved)

    def _put_rows(self) -> None:
        """Put the rows that came one by one into their columns."""
        rows, self._rows = self._rows, []
        start = 0
        while start < len(rows):
            piece = rows[start : start + GROUP_ROWS - self._fill]
            for stage, values in zip(self._stages, zip(*piece, strict=True), strict=True):
                stage.put_rows(values, self._fill)
            self._fill += len(piece)
            start += len(piece)
            if self._fill == GROUP_ROWS:
                self._spill()

    def _spill(self) -> None:
        """Digest the rows in memory, and write what is to be kept of them."""
        if not self._fill:
            return
        every = self._keep.every
        # Where the selection chooses, it needs every row.
        kept = slice(-self._taken % every, None, every) if every else slice(0, None if self._selection else 0)
        try:
            taken = [stage.take(self._fill, kept) for stage in self._stages]
        except ValueError:
            # Some columns have more rows digested than others now.
            self.abort()
            raise
        self._taken += self._fill
        self._fill = 0
        try:
            if every or self._selection is not None:
                self._open_file()
                piece = self._table(taken)
                self._wait([piece] if self._selection is None else self._selection.take(piece))
                self._write_groups(GROUP_ROWS)
        except OSError as error:
            raise self._failed(error) from error

    def _wait(self, pieces: list[pa.Table]) -> None:
        """Let `pieces` wait to be written."""
        self._waiting += pieces
        self._waiting_rows += sum(piece.num_rows for piece in pieces)

    def _write_groups(self, least: int) -> None:
        """Write row groups while at least `least` rows wait."""
        import pyarrow as pa

        while self._waiting_rows >= least:
            table = pa.concat_tables(self._waiting)
            group, rest = table.slice(0, GROUP_ROWS), table.slice(GROUP_ROWS)
            self._writer.write_table(group, row_group_size=GROUP_ROWS)
            self._kept += group.num_rows
            self._waiting = [rest] if rest.num_rows else []
            self._waiting_rows = rest.num_rows

    def _open_file(self) -> None:
        if self._writer is not None:
            return
        self._file = files.partial_name(self.path).open("wb")
        self._writer = arrow.writer(self._file, self._columns)

    def _table(self, taken: Sequence[tuple[npt.NDArray[np.generic], Any]]) -> pa.Table:
        import pyarrow as pa

        schema = arrow.schema(self._columns)
        arrays = []
        for column, field, (values, extra) in zip(self._columns, schema, taken, strict=True):
            if column.kind == "str":
                arrays.append(arrow.texts(values, extra))
            else:
                arrays.append(arrow.numbers(values, field.type, extra))
        return pa.Table.from_arrays(arrays, schema=schema)


def open_table(path: Path) -> Any:
    """The `pyarrow.parquet.ParquetFile` at `path`. Raises `RecordError` when it is missing or is no Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except pa.ArrowInvalid as error:
        raise RecordInputError(
            path, f"is not a Parquet file, or not all of it ({error}); replay the run to get it back"
        ) from error
    except OSError as error:
        raise files.failure(path, "reading the table", error) from error


def batches(path: Path, file: Any) -> Iterator[pa.RecordBatch]:
    """The kept rows of the open table `file`, at most `GROUP_ROWS` at a time. Raises `RecordError` naming `path`."""
    import pyarrow as pa

    try:
        yield from file.iter_batches(batch_size=GROUP_ROWS)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def read_table(path: Path) -> pa.Table:
    """The kept rows of a table, all in memory. Raises `RecordError`."""
    import pyarrow as pa

    with open_table(path) as file:
        try:
            return file.read()
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RecordError:
    return RecordInputError(path, f"is damaged ({error}); replay the run to get it back")


def table_facts(path: Path) -> TableFacts:
    """What the table at `path` says about itself. Raises `RecordError`, or `RecordInputError` for a foreign table."""
    with open_table(path) as file:
        metadata = file.metadata.metadata or {}
        there = file.metadata.num_rows
    try:
        said = {key: metadata[b"twin." + key.encode()].decode() for key in ("schema", "keep", "rows", "kept", "digest")}
        summary = TableSummary(int(said["rows"]), int(said["kept"]), said["digest"])
        facts = TableFacts(said["schema"], Keep.parse(said["keep"]), summary)
        expected = facts.keep.count(summary.rows)
    except (KeyError, ValueError, OverflowError) as error:
        raise RecordInputError(path, "is a Parquet file, but not a table of a run; name a run's directory") from error
    if not there == summary.kept == expected:
        raise RecordInputError(
            path,
            f"has {there} rows, which is not what {facts.keep} keeps of {summary.rows}; replay the run to get it back",
        )
    return facts
